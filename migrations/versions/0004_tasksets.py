"""Tasksets that a team shares"""

from alembic import op
import sqlalchemy as sa

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "tasksets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("num_tasks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_tasksets_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasksets")),
        sa.UniqueConstraint("team_id", "name", name=op.f("uq_tasksets_team_id_name")),
    )
    op.create_index(op.f("ix_tasksets_team_id_created_at_id"), "tasksets", ["team_id", "created_at", "id"])
    op.create_table(
        "taskset_tasks",
        sa.Column("taskset_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["taskset_id"], ["tasksets.id"], name=op.f("fk_taskset_tasks_taskset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("taskset_id", "name", name=op.f("pk_taskset_tasks")),
    )
    op.create_index(op.f("ix_taskset_tasks_taskset_id_position"), "taskset_tasks", ["taskset_id", "position"])


def downgrade() -> None:
    op.drop_table("taskset_tasks")
    op.drop_table("tasksets")
