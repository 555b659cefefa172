"""Held-out scores, guard rules and alarms

What is there already counts as looked at: a guard that wakes over an old tree should not act on its past.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")
_JSON = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())


def _time(name: str, **options) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not options, **options)


def upgrade() -> None:
    op.add_column("checkpoints", _time("guard_checked_at"))
    op.execute("update checkpoints set guard_checked_at = clock_timestamp() where status = 'committed'")
    op.create_index(
        "ix_checkpoints_unchecked",
        "checkpoints",
        ["model_id"],
        postgresql_where=sa.text("guard_checked_at is null and status = 'committed'"),
    )
    op.add_column("operations", _time("guard_checked_at"))
    op.create_index(
        "ix_operations_non_finite",
        "operations",
        ["model_id"],
        postgresql_where=sa.text("error_code = 'non_finite' and guard_checked_at is null"),
    )
    op.add_column("jobs", sa.Column("is_evaluation", sa.Boolean(), nullable=True))
    op.add_column("jobs", sa.Column("benchmark", sa.Text(), nullable=True))
    op.add_column("jobs", _time("scored_at"))
    op.execute("update jobs set is_evaluation = false")
    op.create_index(
        "ix_jobs_evaluations",
        "jobs",
        ["created_at"],
        postgresql_where=sa.text("is_evaluation is not false"),
    )
    _evals()
    op.create_table(
        "guards",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("rules", _JSON, nullable=False),
        sa.Column("eval_jobs", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_guards_model_id")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_guards")),
    )
    _alarms()


def _evals() -> None:
    op.create_table(
        "evals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("benchmark", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.Column("higher_is_better", sa.Boolean(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("mixed", sa.Boolean(), nullable=False),
        sa.Column("details", _JSON, nullable=True),
        _time("created_at", server_default=_NOW),
        _time("guard_checked_at"),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_evals_checkpoint_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_evals_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evals")),
    )
    op.create_index(op.f("ix_evals_model_id_created_at_id"), "evals", ["model_id", "created_at", "id"])
    op.create_index(
        "uq_evals_job",
        "evals",
        ["model_id", "job_id", "checkpoint_id"],
        unique=True,
        postgresql_where=sa.text("job_id is not null"),
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "ix_evals_unchecked", "evals", ["model_id"], postgresql_where=sa.text("guard_checked_at is null")
    )


def _alarms() -> None:
    op.create_table(
        "alarms",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("evidence", _JSON, nullable=False),
        sa.Column("actions", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", _JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        _time("try_at", server_default=_NOW),
        sa.Column("head_before", sa.Text(), nullable=True),
        sa.Column("head_after", sa.Text(), nullable=True),
        _time("created_at", server_default=_NOW),
        _time("acknowledged_at"),
        _time("undone_at"),
        sa.CheckConstraint(
            "state in ('noted', 'pending', 'done', 'failed', 'undone')", name=op.f("ck_alarms_state")
        ),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_alarms_checkpoint_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_alarms_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarms")),
    )
    op.create_index("uq_alarms_rule_subject", "alarms", ["rule", "subject_id"], unique=True)
    op.create_index(op.f("ix_alarms_model_id_created_at_id"), "alarms", ["model_id", "created_at", "id"])
    op.create_index("ix_alarms_pending", "alarms", ["try_at"], postgresql_where=sa.text("state = 'pending'"))


def downgrade() -> None:
    for table in ("alarms", "guards", "evals"):
        op.drop_table(table)
    op.drop_index("ix_jobs_evaluations", table_name="jobs")
    for column in ("scored_at", "benchmark", "is_evaluation"):
        op.drop_column("jobs", column)
    op.drop_index("ix_operations_non_finite", table_name="operations")
    op.drop_column("operations", "guard_checked_at")
    op.drop_index("ix_checkpoints_unchecked", table_name="checkpoints")
    op.drop_column("checkpoints", "guard_checked_at")
