"""What people write on models, runs and rollouts; removed teams"""

from alembic import op
import sqlalchemy as sa

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def _texts(name: str) -> "sa.Column[list[str]]":
    return sa.Column(name, sa.ARRAY(sa.Text()), server_default="{}", nullable=False)


def upgrade() -> None:
    op.add_column("models", sa.Column("description", sa.Text(), nullable=True))
    op.add_column("models", _texts("tags"))
    op.add_column("runs", _texts("tags"))
    op.add_column("teams", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("traces", _texts("labels"))
    op.create_table(
        "trace_comments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id"],
            ["traces.team_id", "traces.id"],
            name=op.f("fk_trace_comments_team_id_trace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trace_comments")),
    )
    op.create_index("ix_trace_comments_of_trace", "trace_comments", ["team_id", "trace_id", "created_at"])


def downgrade() -> None:
    op.drop_table("trace_comments")
    op.drop_column("traces", "labels")
    op.drop_column("teams", "removed_at")
    op.drop_column("runs", "tags")
    op.drop_column("models", "tags")
    op.drop_column("models", "description")
