"""Which older releases may still run against the schema (docs/upgrades.md)"""

from alembic import op
import sqlalchemy as sa

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contractions",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("oldest_revision", sa.Text(), nullable=False),
        sa.Column("oldest_release", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_contractions")),
    )


def downgrade() -> None:
    op.drop_table("contractions")
