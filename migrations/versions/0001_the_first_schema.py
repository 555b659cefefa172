"""The first schema"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateSequence, DropSequence, Sequence

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(CreateSequence(Sequence("lease_tokens")))
    op.create_table(
        "teams",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_api_keys_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_table(
        "jobs",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("group_size", sa.Integer(), nullable=True),
        sa.Column("taskset_id", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_jobs_team_id")),
        sa.PrimaryKeyConstraint("team_id", "id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_team_id_created_at"), "jobs", ["team_id", "created_at"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("weights", sa.Text(), nullable=True),
        sa.Column("info", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("base_id", sa.Uuid(), nullable=True),
        sa.Column("forked_from_id", sa.Uuid(), nullable=True),
        sa.Column("lora", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("head_checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("head_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint("(base_id is null) = (weights is not null)", name=op.f("ck_models_base_has_weights")),
        sa.CheckConstraint("(team_id is null) = (base_id is null)", name=op.f("ck_models_base_has_no_team")),
        sa.ForeignKeyConstraint(["base_id"], ["models.id"], name=op.f("fk_models_base_id")),
        sa.ForeignKeyConstraint(["forked_from_id"], ["models.id"], name=op.f("fk_models_forked_from_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_models_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_base_id"), "models", ["base_id"], unique=False)
    op.create_index(
        "uq_models_team_slug",
        "models",
        ["team_id", sa.literal_column("lower(slug)")],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "telemetry_uploads",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("num_spans", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_telemetry_uploads_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_uploads")),
    )
    op.create_index(
        op.f("ix_telemetry_uploads_team_id_trace_id"), "telemetry_uploads", ["team_id", "trace_id"], unique=False
    )
    op.create_table(
        "traces",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("group_id", sa.Text(), nullable=True),
        sa.Column("parent_trace_id", sa.Text(), nullable=True),
        sa.Column("task_slug", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reward", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("evaluation_result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("extra", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("entered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exited_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_traces_team_id")),
        sa.PrimaryKeyConstraint("team_id", "id", name=op.f("pk_traces")),
    )
    op.create_index(
        op.f("ix_traces_team_id_job_id_created_at"), "traces", ["team_id", "job_id", "created_at"], unique=False
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("files_id", sa.Uuid(), nullable=False),
        sa.Column("files_model_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("num_traces", sa.Integer(), nullable=True),
        sa.Column("num_datums", sa.Integer(), nullable=True),
        sa.Column("num_tokens", sa.BigInteger(), nullable=True),
        sa.Column("mean_reward", sa.Double(), nullable=True),
        sa.Column("learning_rate", sa.Double(), nullable=True),
        sa.Column("loss_fn", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pinned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state_removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("files_removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status in ('staged', 'committed', 'rejected')", name=op.f("ck_checkpoints_status")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_checkpoints_model_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["checkpoints.id"], name=op.f("fk_checkpoints_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )
    op.create_index(op.f("ix_checkpoints_model_id_created_at"), "checkpoints", ["model_id", "created_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("detail", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_events_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_events_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_team_id_id"), "events", ["team_id", "id"], unique=False)
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("payload_blob", sa.Text(), nullable=True),
        sa.Column("head_version", sa.BigInteger(), nullable=False),
        sa.Column("summary", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("result_blob", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("forward_id", sa.Uuid(), nullable=True),
        sa.Column("consumed_by_id", sa.Uuid(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_digest", sa.LargeBinary(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("caller", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("blobs_dropped_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'done', 'failed', 'superseded')", name=op.f("ck_operations_state")
        ),
        sa.CheckConstraint("(payload is null) != (payload_blob is null)", name=op.f("ck_operations_one_payload")),
        sa.ForeignKeyConstraint(["consumed_by_id"], ["operations.id"], name=op.f("fk_operations_consumed_by_id")),
        sa.ForeignKeyConstraint(["forward_id"], ["operations.id"], name=op.f("fk_operations_forward_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_operations_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(
        "ix_operations_open",
        "operations",
        ["model_id", "sequence"],
        unique=False,
        postgresql_where=sa.text("state in ('queued', 'running')"),
    )
    op.create_index(
        "ix_operations_unanswered",
        "operations",
        ["model_id", "body_digest"],
        unique=False,
        postgresql_where=sa.text(
            "kind in ('forward_backward', 'backward') and state in ('queued', 'running', 'done') "
            "and consumed_by_id is null and answered_at is null and idempotency_key is null"
        ),
    )
    op.create_index(
        "ix_operations_unconsumed",
        "operations",
        ["model_id", "sequence"],
        unique=False,
        postgresql_where=sa.text(
            "kind in ('forward_backward', 'backward') and state = 'done' and consumed_by_id is null"
        ),
    )
    op.create_index(
        "uq_operations_idempotency_key",
        "operations",
        ["model_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.create_index("uq_operations_model_sequence", "operations", ["model_id", "sequence"], unique=True)
    op.create_table(
        "samplers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["base_id"], ["models.id"], name=op.f("fk_samplers_base_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samplers")),
    )
    op.create_index(op.f("ix_samplers_base_id_heartbeat_at"), "samplers", ["base_id", "heartbeat_at"], unique=False)
    op.create_table(
        "trainers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("losses", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["base_id"], ["models.id"], name=op.f("fk_trainers_base_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trainers")),
    )
    op.create_index(op.f("ix_trainers_base_id_heartbeat_at"), "trainers", ["base_id", "heartbeat_at"], unique=False)
    op.create_table(
        "adapter_wants",
        sa.Column("checkpoint_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_adapter_wants_checkpoint_id")),
        sa.PrimaryKeyConstraint("checkpoint_id", name=op.f("pk_adapter_wants")),
    )
    op.create_table(
        "model_leases",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("trainer_id", sa.Uuid(), nullable=False),
        sa.Column("token", sa.BigInteger(), server_default=sa.text("nextval('lease_tokens')"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_leases_model_id")),
        sa.ForeignKeyConstraint(["trainer_id"], ["trainers.id"], name=op.f("fk_model_leases_trainer_id")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_leases")),
    )
    op.create_table(
        "sampler_adapters",
        sa.Column("sampler_id", sa.Uuid(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("state in ('loaded', 'failed')", name=op.f("ck_sampler_adapters_state")),
        sa.ForeignKeyConstraint(
            ["sampler_id"], ["samplers.id"], name=op.f("fk_sampler_adapters_sampler_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sampler_id", "adapter", name=op.f("pk_sampler_adapters")),
    )
    op.create_index(op.f("ix_sampler_adapters_adapter"), "sampler_adapters", ["adapter"], unique=False)
    op.create_foreign_key("fk_models_head_checkpoint_id", "models", "checkpoints", ["head_checkpoint_id"], ["id"])


def downgrade() -> None:
    op.drop_constraint("fk_models_head_checkpoint_id", "models")
    op.drop_index(op.f("ix_sampler_adapters_adapter"), table_name="sampler_adapters")
    op.drop_table("sampler_adapters")
    op.drop_table("model_leases")
    op.drop_table("adapter_wants")
    op.drop_index(op.f("ix_trainers_base_id_heartbeat_at"), table_name="trainers")
    op.drop_table("trainers")
    op.drop_index(op.f("ix_samplers_base_id_heartbeat_at"), table_name="samplers")
    op.drop_table("samplers")
    op.drop_index("uq_operations_model_sequence", table_name="operations")
    op.drop_index(
        "uq_operations_idempotency_key",
        table_name="operations",
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.drop_index(
        "ix_operations_unanswered",
        table_name="operations",
        postgresql_where=sa.text(
            "kind in ('forward_backward', 'backward') and state in ('queued', 'running', 'done') "
            "and consumed_by_id is null and answered_at is null and idempotency_key is null"
        ),
    )
    op.drop_index(
        "ix_operations_unconsumed",
        table_name="operations",
        postgresql_where=sa.text(
            "kind in ('forward_backward', 'backward') and state = 'done' and consumed_by_id is null"
        ),
    )
    op.drop_index(
        "ix_operations_open", table_name="operations", postgresql_where=sa.text("state in ('queued', 'running')")
    )
    op.drop_table("operations")
    op.drop_index(op.f("ix_events_team_id_id"), table_name="events")
    op.drop_table("events")
    op.drop_index(op.f("ix_checkpoints_model_id_created_at"), table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_index(op.f("ix_traces_team_id_job_id_created_at"), table_name="traces")
    op.drop_table("traces")
    op.drop_index(op.f("ix_telemetry_uploads_team_id_trace_id"), table_name="telemetry_uploads")
    op.drop_table("telemetry_uploads")
    op.drop_index("uq_models_team_slug", table_name="models", postgresql_nulls_not_distinct=True)
    op.drop_index(op.f("ix_models_base_id"), table_name="models")
    op.drop_table("models")
    op.drop_index(op.f("ix_jobs_team_id_created_at"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("api_keys")
    op.drop_table("teams")
    op.execute(DropSequence(Sequence("lease_tokens")))
