"""Recorded rollouts: spans, samples, what a trace knows of itself

The batches of `telemetry_uploads` are dropped, not converted: no release ever wrote them.
"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def _time(name: str, **options) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not options, **options)


def _count(name: str, kind) -> sa.Column:
    return sa.Column(name, kind, server_default="0", nullable=False)


def upgrade() -> None:
    op.drop_table("telemetry_uploads")
    op.add_column("jobs", _time("pinned_at"))

    op.add_column("traces", sa.Column("model_id", sa.Uuid(), nullable=True))
    op.add_column("traces", _time("last_activity_at", server_default=_NOW))
    op.add_column("traces", _time("timed_out_at"))
    op.add_column("traces", _time("pinned_at"))
    op.add_column("traces", sa.Column("evaluated_reward", sa.Double(), nullable=True))
    op.add_column("traces", _count("num_turns", sa.Integer()))
    op.add_column("traces", _count("num_samples", sa.Integer()))
    op.add_column("traces", _count("num_prompt_tokens", sa.BigInteger()))
    op.add_column("traces", _count("num_output_tokens", sa.BigInteger()))
    op.add_column("traces", sa.Column("checkpoint_ids", postgresql.ARRAY(sa.Uuid()), server_default="{}", nullable=False))
    op.add_column("traces", sa.Column("flags", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False))
    op.add_column(
        "traces", sa.Column("has_samples", sa.Boolean(), sa.Computed("num_samples > 0", persisted=True), nullable=False)
    )
    op.create_index(op.f("ix_traces_team_id_created_at_id"), "traces", ["team_id", "created_at", "id"])
    op.create_index(op.f("ix_traces_team_id_model_id_created_at"), "traces", ["team_id", "model_id", "created_at"])
    op.create_index(op.f("ix_traces_team_id_task_slug_created_at"), "traces", ["team_id", "task_slug", "created_at"])
    op.create_index(op.f("ix_traces_team_id_group_id"), "traces", ["team_id", "group_id"])
    op.create_index(op.f("ix_traces_checkpoint_ids"), "traces", ["checkpoint_ids"], postgresql_using="gin")
    op.create_index(op.f("ix_traces_team_id_status_created_at_id"), "traces", ["team_id", "status", "created_at", "id"])
    op.create_index("ix_traces_reward", "traces", ["team_id", sa.text("coalesce(reward, evaluated_reward)")])
    op.create_index(
        "ix_traces_without_samples",
        "traces",
        ["team_id", "created_at", "id"],
        postgresql_where=sa.text("not has_samples"),
    )
    op.create_index(
        "ix_traces_running",
        "traces",
        ["team_id", "job_id"],
        postgresql_where=sa.text("status is null and timed_out_at is null"),
    )

    op.create_table(
        "samples",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _time("recorded_at", server_default=_NOW),
        sa.Column("prompt_length", sa.Integer(), nullable=False),
        sa.Column("output_length", sa.Integer(), nullable=False),
        sa.Column("parent_digest", sa.LargeBinary(), nullable=True),
        sa.Column("prompt_shared", sa.Integer(), nullable=False),
        sa.Column("prompt_digest", sa.LargeBinary(), nullable=False),
        sa.Column("end_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tokens", sa.LargeBinary(), nullable=True),
        sa.Column("tokens_blob", sa.Text(), nullable=True),
        _time("served_at"),
        sa.Column("completion_id", sa.Text(), nullable=True),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("sampling", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("conversation", sa.LargeBinary(), nullable=True),
        sa.Column("conversation_blob", sa.Text(), nullable=True),
        sa.Column("conversation_parent", sa.LargeBinary(), nullable=True),
        sa.Column("items_shared", sa.Integer(), nullable=True),
        sa.Column("num_items", sa.Integer(), nullable=True),
        sa.Column("items_digest", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("(tokens is null) <> (tokens_blob is null)", name=op.f("ck_samples_tokens_somewhere")),
        sa.CheckConstraint(
            "(parent_digest is null) = (prompt_shared = 0)", name=op.f("ck_samples_shares_with_a_parent")
        ),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id"],
            ["traces.team_id", "traces.id"],
            name=op.f("fk_samples_team_id_trace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "trace_id", "digest", name=op.f("pk_samples")),
    )
    op.create_table(
        "spans",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("span_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        _time("received_at", server_default=_NOW),
        sa.Column("schema_tag", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("step_id", sa.Integer(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        _time("started_at"),
        _time("ended_at"),
        sa.Column("sample_digest", sa.LargeBinary(), nullable=True),
        sa.Column("flag", sa.Text(), nullable=True),
        sa.Column("num_bytes", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("payload_blob", sa.Text(), nullable=True),
        sa.CheckConstraint("(payload is null) <> (payload_blob is null)", name=op.f("ck_spans_payload_somewhere")),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id"],
            ["traces.team_id", "traces.id"],
            name=op.f("fk_spans_team_id_trace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "trace_id", "span_id", "digest", name=op.f("pk_spans")),
    )


def downgrade() -> None:
    op.drop_table("spans")
    op.drop_table("samples")
    for index in (
        "ix_traces_running",
        "ix_traces_without_samples",
        "ix_traces_reward",
        "ix_traces_team_id_status_created_at_id",
        "ix_traces_checkpoint_ids",
        "ix_traces_team_id_group_id",
        "ix_traces_team_id_task_slug_created_at",
        "ix_traces_team_id_model_id_created_at",
        "ix_traces_team_id_created_at_id",
    ):
        op.drop_index(index, table_name="traces")
    for column in (
        "has_samples",
        "flags",
        "checkpoint_ids",
        "num_output_tokens",
        "num_prompt_tokens",
        "num_samples",
        "num_turns",
        "evaluated_reward",
        "pinned_at",
        "timed_out_at",
        "last_activity_at",
        "model_id",
    ):
        op.drop_column("traces", column)
    op.drop_column("jobs", "pinned_at")
    op.create_table(
        "telemetry_uploads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        _time("received_at", server_default=_NOW),
        sa.Column("num_spans", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_telemetry_uploads_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_uploads")),
    )
    op.create_index(op.f("ix_telemetry_uploads_team_id_trace_id"), "telemetry_uploads", ["team_id", "trace_id"])
