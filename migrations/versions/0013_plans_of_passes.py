"""How the pass of an operation was cut up"""

from alembic import op
import sqlalchemy as sa

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operations", sa.Column("plan", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("operations", "plan")
