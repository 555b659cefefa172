"""When each server process was seen last: whoever finds no other row knows that nobody else keeps lookups"""

from alembic import op
import sqlalchemy as sa

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    seen_at = sa.Column(
        "seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
    )
    op.add_column("servers", seen_at)


def downgrade() -> None:
    op.drop_column("servers", "seen_at")
