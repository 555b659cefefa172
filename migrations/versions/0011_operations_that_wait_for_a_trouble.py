"""Operations that wait for a trouble to pass, and requests compared as they were sent"""

from alembic import op
import sqlalchemy as sa

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operations", sa.Column("request_digest", sa.LargeBinary(), nullable=True))
    op.add_column("operations", sa.Column("deferrals", sa.Integer(), server_default="0", nullable=False))
    op.add_column("operations", sa.Column("faults", sa.Integer(), server_default="0", nullable=False))
    op.add_column("operations", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("operations", sa.Column("retry_reason", sa.Text(), nullable=True))
    op.drop_index("ix_operations_unanswered", table_name="operations")
    op.create_index(
        "ix_operations_unanswered",
        "operations",
        ["model_id", "request_digest"],
        postgresql_where=sa.text(
            "state in ('queued', 'running', 'done') and consumed_by_id is null and answered_at is null "
            "and idempotency_key is null"
        ),
    )
    # Troubles that have passed: nothing of these was applied, and their keys may be used for it now.
    op.execute(
        "update operations set idempotency_key = null "
        "where state = 'failed' and error_code in ('unavailable', 'spill_lost', 'corrupt_checkpoint')"
    )


def downgrade() -> None:
    op.drop_index("ix_operations_unanswered", table_name="operations")
    op.create_index(
        "ix_operations_unanswered",
        "operations",
        ["model_id", "body_digest"],
        postgresql_where=sa.text(
            "kind in ('forward_backward', 'backward') and state in ('queued', 'running', 'done') "
            "and consumed_by_id is null and answered_at is null and idempotency_key is null"
        ),
    )
    for column in ("retry_reason", "retry_at", "faults", "deferrals", "request_digest"):
        op.drop_column("operations", column)
