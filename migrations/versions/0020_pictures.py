"""Pictures, and what names them"""

from alembic import op
import sqlalchemy as sa

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")
_NAMED = sa.text("pictures is not null")


def upgrade() -> None:
    op.create_table(
        "pictures",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("is_recorded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_pictures_team_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("team_id", "name", name=op.f("pk_pictures")),
    )
    op.create_index("ix_pictures_last_used_at", "pictures", ["last_used_at"])
    op.create_table(
        "trace_pictures",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id"],
            ["traces.team_id", "traces.id"],
            name=op.f("fk_trace_pictures_team_id_trace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "trace_id", "name", name=op.f("pk_trace_pictures")),
    )
    op.create_index("ix_trace_pictures_team_id_name", "trace_pictures", ["team_id", "name"])
    op.add_column("samples", sa.Column("media", sa.LargeBinary(), nullable=True))
    op.add_column("operations", sa.Column("pictures", sa.ARRAY(sa.Text()), nullable=True))
    op.create_index("ix_operations_pictures", "operations", ["finished_at"], postgresql_where=_NAMED)
    op.add_column("sampling_requests", sa.Column("pictures", sa.ARRAY(sa.Text()), nullable=True))
    op.create_index("ix_sampling_requests_pictures", "sampling_requests", ["created_at"], postgresql_where=_NAMED)


def downgrade() -> None:
    op.drop_column("sampling_requests", "pictures")
    op.drop_column("operations", "pictures")
    op.drop_column("samples", "media")
    op.drop_table("trace_pictures")
    op.drop_table("pictures")
