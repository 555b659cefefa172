"""What people write on models, runs and rollouts; searchable texts; removed teams; what processes loaded"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_JSON = JSONB(none_as_null=True, astext_type=sa.Text())
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
    op.create_table(
        "servers",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("details", _JSON, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_servers")),
    )
    for planes in ("trainers", "samplers"):
        op.add_column(planes, sa.Column("details", _JSON, server_default="{}", nullable=False))
    op.create_index("ix_trace_comments_of_trace", "trace_comments", ["team_id", "trace_id", "created_at"])
    _add_texts()


def _add_texts() -> None:
    op.add_column("traces", sa.Column("text_read_until", sa.DateTime(timezone=True), nullable=True))
    is_unread = sa.Computed("text_read_until is null or text_read_until < last_activity_at", persisted=True)
    op.add_column("traces", sa.Column("is_unread", sa.Boolean(), is_unread, nullable=False))
    op.create_index("ix_traces_unread", "traces", ["created_at"], postgresql_where=sa.text("is_unread"))
    labelled = sa.text("labels <> '{}'")
    op.create_index("ix_traces_labels", "traces", ["labels"], postgresql_using="gin", postgresql_where=labelled)
    op.create_table(
        "trace_texts",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("words", TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id"],
            ["traces.team_id", "traces.id"],
            name=op.f("fk_trace_texts_team_id_trace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "trace_id", name=op.f("pk_trace_texts")),
    )
    op.create_index("ix_trace_texts_words", "trace_texts", ["words"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_table("trace_texts")
    op.drop_index("ix_traces_labels", "traces")
    op.drop_column("traces", "is_unread")
    op.drop_column("traces", "text_read_until")
    for planes in ("samplers", "trainers"):
        op.drop_column(planes, "details")
    op.drop_table("servers")
    op.drop_table("trace_comments")
    op.drop_column("traces", "labels")
    op.drop_column("teams", "removed_at")
    op.drop_column("runs", "tags")
    op.drop_column("models", "tags")
    op.drop_column("models", "description")
