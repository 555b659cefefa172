"""Trainers that load, share models, and are started on demand"""

from alembic import op
import sqlalchemy as sa

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trainers", sa.Column("is_loading", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column(
        "model_leases",
        sa.Column("taken_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
    )
    op.create_table(
        "trainer_starts",
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["base_id"], ["models.id"], name=op.f("fk_trainer_starts_base_id")),
        sa.PrimaryKeyConstraint("base_id", name=op.f("pk_trainer_starts")),
    )


def downgrade() -> None:
    op.drop_table("trainer_starts")
    op.drop_column("model_leases", "taken_at")
    op.drop_column("trainers", "is_loading")
