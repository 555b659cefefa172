"""Indexes over the rows that name blobs"""

from alembic import op
import sqlalchemy as sa

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


COLUMNS = [("samples", "tokens_blob"), ("samples", "conversation_blob"), ("spans", "payload_blob")]


def upgrade() -> None:
    for table, column in COLUMNS:
        where = sa.text(f"{column} is not null")
        op.create_index(f"ix_{table}_{column}", table, [column], postgresql_where=where)


def downgrade() -> None:
    for table, column in COLUMNS:
        op.drop_index(f"ix_{table}_{column}", table_name=table)
