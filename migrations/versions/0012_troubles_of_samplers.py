"""Why a sampler is out of rotation"""

from alembic import op
import sqlalchemy as sa

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("samplers", sa.Column("trouble", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("samplers", "trouble")
