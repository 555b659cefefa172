"""An id by which stores know whose they are"""

from alembic import op
import sqlalchemy as sa

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "service",
        sa.Column("is_this", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.CheckConstraint("is_this", name=op.f("ck_service_is_this")),
        sa.PrimaryKeyConstraint("is_this", name=op.f("pk_service")),
    )


def downgrade() -> None:
    op.drop_table("service")
