"""Sessions of clients that number their requests; nodes without files; names of checkpoints"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "client_sessions",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("team_id", sa.Uuid(), sa.ForeignKey("teams.id"), nullable=False),
        sa.Column("key_id", sa.Uuid(), sa.ForeignKey("api_keys.id"), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("user_metadata", postgresql.JSONB(), nullable=True),
        sa.Column("sdk_version", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finish_reason", postgresql.JSONB(), nullable=True),
    )
    op.create_index("ix_client_sessions_team_id_created_at", "client_sessions", ["team_id", "created_at"])
    op.create_index(
        "uq_client_sessions_idempotency_key",
        "client_sessions",
        ["team_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )

    op.add_column("models", sa.Column("serves_head", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("models", sa.Column("served_checkpoint_id", sa.Uuid(), nullable=True))
    op.add_column("models", sa.Column("session_id", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("session_index", sa.Integer(), nullable=True))
    op.add_column("models", sa.Column("next_client_sequence", sa.BigInteger(), server_default="1", nullable=False))
    op.add_column("models", sa.Column("user_metadata", postgresql.JSONB(), nullable=True))
    op.add_column("models", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_foreign_key("fk_models_served_checkpoint_id", "models", "checkpoints", ["served_checkpoint_id"], ["id"])
    op.create_foreign_key("fk_models_session_id", "models", "client_sessions", ["session_id"], ["id"])
    op.create_check_constraint(
        op.f("ck_models_session_index"), "models", "(session_id is null) = (session_index is null)"
    )
    op.create_index("uq_models_session", "models", ["session_id", "session_index"], unique=True)

    op.alter_column("operations", "sequence", nullable=True)
    op.add_column("operations", sa.Column("client_sequence", sa.BigInteger(), nullable=True))
    op.drop_constraint(op.f("ck_operations_state"), "operations", type_="check")
    op.create_check_constraint(
        op.f("ck_operations_state"),
        "operations",
        "state in ('held', 'queued', 'running', 'done', 'failed', 'superseded')",
    )
    op.create_index(
        "uq_operations_client_sequence",
        "operations",
        ["model_id", "client_sequence"],
        unique=True,
        postgresql_where=sa.text("client_sequence is not null"),
    )
    op.create_index("ix_operations_held", "operations", ["created_at"], postgresql_where=sa.text("state = 'held'"))

    op.add_column("checkpoints", sa.Column("operation_id", sa.Uuid(), nullable=True))
    op.add_column("checkpoints", sa.Column("is_saved", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.create_foreign_key("fk_checkpoints_operation_id", "checkpoints", "operations", ["operation_id"], ["id"])

    op.create_table(
        "checkpoint_names",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("model_id", sa.Uuid(), sa.ForeignKey("models.id"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), sa.ForeignKey("checkpoints.id"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("user_metadata", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind in ('training', 'sampler', 'external')", name=op.f("ck_checkpoint_names_kind")),
    )
    op.create_index(
        "uq_checkpoint_names_model_kind_name", "checkpoint_names", ["model_id", "kind", "name"], unique=True
    )
    op.create_index("ix_checkpoint_names_checkpoint_id", "checkpoint_names", ["checkpoint_id"])

    op.create_table(
        "sampling_sessions",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("session_id", sa.Text(), sa.ForeignKey("client_sessions.id"), nullable=False),
        sa.Column("session_index", sa.BigInteger(), nullable=False),
        sa.Column("team_id", sa.Uuid(), sa.ForeignKey("teams.id"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Uuid(), sa.ForeignKey("models.id"), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), sa.ForeignKey("checkpoints.id"), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("num_clones", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint("kind in ('base', 'path', 'snapshot', 'inflight')", name=op.f("ck_sampling_sessions_kind")),
    )
    op.create_index("uq_sampling_sessions_session", "sampling_sessions", ["session_id", "session_index"], unique=True)
    op.create_index("ix_sampling_sessions_model_id", "sampling_sessions", ["model_id"])

    op.create_table(
        "sampling_requests",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column(
            "sampling_session_id", sa.Text(), sa.ForeignKey("sampling_sessions.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("client_sequence", sa.BigInteger(), nullable=False),
        sa.Column("team_id", sa.Uuid(), sa.ForeignKey("teams.id"), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("owner", sa.BigInteger(), nullable=True),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("error_category", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('open', 'done', 'failed', 'cancelled')", name=op.f("ck_sampling_requests_state")),
    )
    op.create_index(
        "uq_sampling_requests_sequence", "sampling_requests", ["sampling_session_id", "client_sequence"], unique=True
    )
    op.create_index("ix_sampling_requests_created_at", "sampling_requests", ["created_at"])


def downgrade() -> None:
    op.drop_table("sampling_requests")
    op.drop_table("sampling_sessions")
    op.drop_table("checkpoint_names")
    op.drop_column("checkpoints", "is_saved")
    op.drop_column("checkpoints", "operation_id")
    op.drop_index("ix_operations_held", "operations")
    op.drop_index("uq_operations_client_sequence", "operations")
    op.drop_column("operations", "client_sequence")
    op.drop_constraint(op.f("ck_operations_state"), "operations", type_="check")
    op.create_check_constraint(
        op.f("ck_operations_state"), "operations", "state in ('queued', 'running', 'done', 'failed', 'superseded')"
    )
    op.alter_column("operations", "sequence", nullable=False)
    op.drop_index("uq_models_session", "models")
    for column in (
        "removed_at",
        "user_metadata",
        "next_client_sequence",
        "session_index",
        "session_id",
        "served_checkpoint_id",
        "serves_head",
    ):
        op.drop_column("models", column)
    op.drop_table("client_sessions")
