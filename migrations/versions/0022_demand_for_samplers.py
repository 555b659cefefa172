"""What is asked of samplers, by base and server process"""

from alembic import op
import sqlalchemy as sa

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "sampler_demands",
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("server", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("running", sa.Integer(), server_default="0", nullable=False),
        sa.Column("waiting", sa.Integer(), server_default="0", nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["base_id"], ["models.id"], name=op.f("fk_sampler_demands_base_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("base_id", "server", name=op.f("pk_sampler_demands")),
    )


def downgrade() -> None:
    op.drop_table("sampler_demands")
