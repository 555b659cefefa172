"""Sampling requests by when they ended, for those who poll a sampling session"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INDEX, _TABLE = "ix_sampling_requests_sampling_session_id_finished_at", "sampling_requests"


def upgrade() -> None:
    op.create_index(_INDEX, _TABLE, ["sampling_session_id", "finished_at"])


def downgrade() -> None:
    op.drop_index(_INDEX, _TABLE)
