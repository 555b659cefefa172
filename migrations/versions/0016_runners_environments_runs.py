"""Runners, environments, hosted rollouts, runs, files; other vendors' models"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")
_TIME = sa.DateTime(timezone=True)
_JSON = postgresql.JSONB(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "environments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("declared_name", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("updated_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("next_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("current_build_id", sa.Uuid(), nullable=True),
        sa.Column("variables", _JSON, server_default="{}", nullable=False),
        sa.Column("runtime_config", _JSON, nullable=True),
        sa.Column("removed_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_environments_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
    )
    op.create_index(
        "uq_environments_team_name",
        "environments",
        ["team_id", "name"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "runners",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("kinds", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("isolation", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("tunnel_token", sa.Text(), nullable=True),
        sa.Column("versions", _JSON, nullable=False),
        sa.Column("started_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("heartbeat_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("stopped_at", _TIME, nullable=True),
        sa.Column("drained_at", _TIME, nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_runners_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_runners_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runners")),
    )
    op.create_index(op.f("ix_runners_heartbeat_at"), "runners", ["heartbeat_at"], unique=False)
    op.create_table(
        "environment_builds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("upload_token_hash", sa.LargeBinary(), nullable=True),
        sa.Column("archive_blob", sa.Text(), nullable=True),
        sa.Column("archive_bytes", sa.BigInteger(), nullable=True),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("environment_id", sa.Uuid(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("declared_name", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.LargeBinary(), nullable=True),
        sa.Column("triggered_at", _TIME, nullable=True),
        sa.Column("no_cache", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("build_args", _JSON, nullable=True),
        sa.Column("build_secrets", _JSON, nullable=True),
        sa.Column("runtime_config", _JSON, nullable=True),
        sa.Column("manifest", _JSON, nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("num_log_lines", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "source in ('upload', 'folder', 'image', 'builtin')", name=op.f("ck_environment_builds_source")
        ),
        sa.CheckConstraint(
            "state in ('awaiting_upload', 'uploaded', 'queued', 'building', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_environment_builds_state"),
        ),
        sa.CheckConstraint("(environment_id is null) = (version is null)", name=op.f("ck_environment_builds_version")),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name=op.f("fk_environment_builds_environment_id")
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_environment_builds_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_environment_builds_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environment_builds")),
    )
    op.create_index(op.f("ix_environment_builds_archive_blob"), "environment_builds", ["archive_blob"], unique=False)
    op.create_index(op.f("ix_environment_builds_created_at"), "environment_builds", ["created_at"], unique=False)
    op.create_index(
        "uq_environment_builds_environment_version", "environment_builds", ["environment_id", "version"], unique=True
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_lines", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_files_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_files_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index(op.f("ix_files_blob"), "files", ["blob"], unique=False)
    op.create_index(op.f("ix_files_team_id_created_at_id"), "files", ["team_id", "created_at", "id"], unique=False)
    op.create_table(
        "build_log_lines",
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["environment_builds.id"], name=op.f("fk_build_log_lines_build_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("build_id", "attempt", "number", name=op.f("pk_build_log_lines")),
    )
    op.create_table(
        "placements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("build_id", sa.Uuid(), nullable=True),
        sa.Column("timeout_s", sa.Double(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("available_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default="3", nullable=False),
        sa.Column("runner_id", sa.Uuid(), nullable=True),
        sa.Column("taken_at", _TIME, nullable=True),
        sa.Column("ready_at", _TIME, nullable=True),
        sa.Column("cancelled_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'ended') = (outcome is not null)", name=op.f("ck_placements_ended_with_an_outcome")
        ),
        sa.CheckConstraint("kind in ('build', 'session', 'rollout')", name=op.f("ck_placements_kind")),
        sa.CheckConstraint("outcome in ('completed', 'failed', 'cancelled')", name=op.f("ck_placements_outcome")),
        sa.CheckConstraint("state <> 'running' or runner_id is not null", name=op.f("ck_placements_running_somewhere")),
        sa.CheckConstraint("state in ('queued', 'running', 'ended')", name=op.f("ck_placements_state")),
        sa.ForeignKeyConstraint(["build_id"], ["environment_builds.id"], name=op.f("fk_placements_build_id")),
        sa.ForeignKeyConstraint(["runner_id"], ["runners.id"], name=op.f("fk_placements_runner_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_placements_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_placements")),
    )
    op.create_index(op.f("ix_placements_build_id"), "placements", ["build_id"], unique=False)
    op.create_index(op.f("ix_placements_ended_at"), "placements", ["ended_at"], unique=False)
    op.create_index(
        "ix_placements_live_of_team",
        "placements",
        ["team_id"],
        unique=False,
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_index(
        "ix_placements_queued",
        "placements",
        ["team_id", "priority", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_placements_running",
        "placements",
        ["runner_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "environment_sessions",
        sa.Column("placement_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=True),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("num_open_tunnels", sa.Integer(), server_default="0", nullable=False),
        sa.Column("num_tunnels", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tunnel_changed_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["placement_id"], ["placements.id"], name=op.f("fk_environment_sessions_placement_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_environment_sessions_team_id")),
        sa.PrimaryKeyConstraint("placement_id", name=op.f("pk_environment_sessions")),
    )
    op.create_index(
        op.f("ix_environment_sessions_team_id_trace_id"), "environment_sessions", ["team_id", "trace_id"], unique=False
    )
    op.create_table(
        "hosted_rollouts",
        sa.Column("placement_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=True),
        sa.Column("parent_trace_id", sa.Text(), nullable=True),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=True),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("agent_type", sa.Text(), nullable=False),
        sa.Column("agent_config", sa.Text(), nullable=False),
        sa.Column("verifier", sa.Text(), nullable=True),
        sa.Column("verifier_build_id", sa.Uuid(), nullable=True),
        sa.Column("runtime_config", _JSON, nullable=True),
        sa.Column("reported_exit", _JSON, nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.CheckConstraint("purpose in ('train', 'held_out')", name=op.f("ck_hosted_rollouts_purpose")),
        sa.CheckConstraint("(run_id is null) = (step is null)", name=op.f("ck_hosted_rollouts_step_of_a_run")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_hosted_rollouts_key_id")),
        sa.ForeignKeyConstraint(
            ["placement_id"], ["placements.id"], name=op.f("fk_hosted_rollouts_placement_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_hosted_rollouts_team_id")),
        sa.ForeignKeyConstraint(
            ["verifier_build_id"], ["environment_builds.id"], name=op.f("fk_hosted_rollouts_verifier_build_id")
        ),
        sa.PrimaryKeyConstraint("placement_id", name=op.f("pk_hosted_rollouts")),
    )
    op.create_index(
        "ix_hosted_rollouts_run",
        "hosted_rollouts",
        ["run_id", "step", "purpose"],
        unique=False,
        postgresql_where=sa.text("run_id is not null"),
    )
    op.create_index(op.f("ix_hosted_rollouts_team_id_job_id"), "hosted_rollouts", ["team_id", "job_id"], unique=False)
    op.create_index("uq_hosted_rollouts_trace", "hosted_rollouts", ["team_id", "trace_id"], unique=True)
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("user_metadata", _JSON, nullable=True),
        sa.Column("source", sa.Text(), server_default="runs", nullable=False),
        sa.Column("details", _JSON, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.LargeBinary(), nullable=True),
        sa.Column("taskset", sa.Text(), nullable=True),
        sa.Column("num_tasks", sa.Integer(), nullable=False),
        sa.Column("tasks", sa.Text(), nullable=False),
        sa.Column("held_out_tasks", sa.Text(), nullable=True),
        sa.Column("config", _JSON, nullable=False),
        sa.Column("held_out", _JSON, nullable=True),
        sa.Column("stop", _JSON, nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("held_out_job_id", sa.Uuid(), nullable=True),
        sa.Column("start_checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("best_checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("reward", sa.Double(), nullable=True),
        sa.Column("held_out_score", sa.Double(), nullable=True),
        sa.Column("best_held_out_score", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("lease_owner", sa.BigInteger(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("leased_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("next_event", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "state in ('queued', 'running', 'pausing', 'paused', 'completed', 'stopped', 'failed', 'cancelling', 'cancelled')",
            name=op.f("ck_runs_state"),
        ),
        sa.ForeignKeyConstraint(["best_checkpoint_id"], ["checkpoints.id"], name=op.f("fk_runs_best_checkpoint_id")),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_runs_checkpoint_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_runs_key_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_runs_model_id")),
        sa.ForeignKeyConstraint(["start_checkpoint_id"], ["checkpoints.id"], name=op.f("fk_runs_start_checkpoint_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_runs_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index(
        "ix_runs_live",
        "runs",
        ["leased_at"],
        unique=False,
        postgresql_where=sa.text("state in ('queued', 'running', 'pausing', 'cancelling')"),
    )
    op.create_index(op.f("ix_runs_team_id_created_at_id"), "runs", ["team_id", "created_at", "id"], unique=False)
    op.create_index(
        "uq_runs_idempotency_key",
        "runs",
        ["team_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.create_index(
        "uq_runs_live_of_model",
        "runs",
        ["model_id"],
        unique=True,
        postgresql_where=sa.text("state in ('queued', 'running', 'pausing', 'paused', 'cancelling')"),
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_events_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_run_events")),
    )
    op.create_table(
        "run_steps",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("chosen", _JSON, nullable=False),
        sa.Column("policy_checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("operation_ids", _JSON, server_default="{}", nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("metrics", _JSON, nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("began_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("rolled_out_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.CheckConstraint("kind in ('train', 'held_out')", name=op.f("ck_run_steps_kind")),
        sa.CheckConstraint(
            "phase in ('rolling_out', 'training', 'promoting', 'done', 'dropped')", name=op.f("ck_run_steps_phase")
        ),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_run_steps_checkpoint_id")),
        sa.ForeignKeyConstraint(
            ["policy_checkpoint_id"], ["checkpoints.id"], name=op.f("fk_run_steps_policy_checkpoint_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_steps_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "step", "kind", name=op.f("pk_run_steps")),
    )
    op.add_column("api_keys", sa.Column("runner_id", sa.Uuid(), nullable=True))
    op.create_index(op.f("ix_api_keys_runner_id"), "api_keys", ["runner_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_api_keys_runner_id"), "api_keys", "runners", ["runner_id"], ["id"], ondelete="CASCADE"
    )
    op.add_column("models", sa.Column("upstream", _JSON, nullable=True))
    op.add_column("samples", sa.Column("attempt", sa.Integer(), nullable=True))
    op.add_column("traces", sa.Column("attempt", sa.Integer(), nullable=True))
    op.create_foreign_key(
        op.f("fk_environments_current_build_id"), "environments", "environment_builds", ["current_build_id"], ["id"]
    )
    op.create_foreign_key(op.f("fk_hosted_rollouts_run_id"), "hosted_rollouts", "runs", ["run_id"], ["id"])
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys", type_="check")
    op.create_check_constraint(
        op.f("ck_api_keys_role"),
        "api_keys",
        "role in ('viewer', 'member', 'team_admin', 'admin', 'runner', 'agent')",
    )
    op.create_check_constraint(
        op.f("ck_api_keys_agents_are_of_runners"), "api_keys", "(role = 'agent') = (runner_id is not null)"
    )
    op.drop_constraint(op.f("ck_models_base_has_weights"), "models", type_="check")
    op.create_check_constraint(
        op.f("ck_models_base_has_weights"),
        "models",
        "(base_id is null) = (weights is not null or upstream is not null)",
    )
    op.create_check_constraint(op.f("ck_models_weights_or_upstream"), "models", "weights is null or upstream is null")


def downgrade() -> None:
    op.execute("delete from api_keys where role in ('runner', 'agent')")
    op.drop_constraint(op.f("ck_models_weights_or_upstream"), "models", type_="check")
    op.drop_constraint(op.f("ck_models_base_has_weights"), "models", type_="check")
    op.create_check_constraint(
        op.f("ck_models_base_has_weights"), "models", "(base_id is null) = (weights is not null)"
    )
    op.drop_constraint(op.f("ck_api_keys_agents_are_of_runners"), "api_keys", type_="check")
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys", type_="check")
    op.create_check_constraint(
        op.f("ck_api_keys_role"), "api_keys", "role in ('viewer', 'member', 'team_admin', 'admin')"
    )
    op.drop_constraint(op.f("fk_hosted_rollouts_run_id"), "hosted_rollouts", type_="foreignkey")
    op.drop_constraint(op.f("fk_environments_current_build_id"), "environments", type_="foreignkey")
    op.drop_column("traces", "attempt")
    op.drop_column("samples", "attempt")
    op.drop_column("models", "upstream")
    op.drop_constraint(op.f("fk_api_keys_runner_id"), "api_keys", type_="foreignkey")
    op.drop_index(op.f("ix_api_keys_runner_id"), table_name="api_keys")
    op.drop_column("api_keys", "runner_id")
    op.drop_table("run_steps")
    op.drop_table("run_events")
    op.drop_index(
        "uq_runs_live_of_model",
        table_name="runs",
        postgresql_where=sa.text("state in ('queued', 'running', 'pausing', 'paused', 'cancelling')"),
    )
    op.drop_index("uq_runs_idempotency_key", table_name="runs", postgresql_where=sa.text("idempotency_key is not null"))
    op.drop_index(op.f("ix_runs_team_id_created_at_id"), table_name="runs")
    op.drop_index(
        "ix_runs_live",
        table_name="runs",
        postgresql_where=sa.text("state in ('queued', 'running', 'pausing', 'cancelling')"),
    )
    op.drop_table("runs")
    op.drop_index("uq_hosted_rollouts_trace", table_name="hosted_rollouts")
    op.drop_index(op.f("ix_hosted_rollouts_team_id_job_id"), table_name="hosted_rollouts")
    op.drop_index(
        "ix_hosted_rollouts_run", table_name="hosted_rollouts", postgresql_where=sa.text("run_id is not null")
    )
    op.drop_table("hosted_rollouts")
    op.drop_index(op.f("ix_environment_sessions_team_id_trace_id"), table_name="environment_sessions")
    op.drop_table("environment_sessions")
    op.drop_index("ix_placements_running", table_name="placements", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("ix_placements_queued", table_name="placements", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index("ix_placements_live_of_team", table_name="placements", postgresql_where=sa.text("state <> 'ended'"))
    op.drop_index(op.f("ix_placements_ended_at"), table_name="placements")
    op.drop_index(op.f("ix_placements_build_id"), table_name="placements")
    op.drop_table("placements")
    op.drop_table("build_log_lines")
    op.drop_index(op.f("ix_files_team_id_created_at_id"), table_name="files")
    op.drop_index(op.f("ix_files_blob"), table_name="files")
    op.drop_table("files")
    op.drop_index("uq_environment_builds_environment_version", table_name="environment_builds")
    op.drop_index(op.f("ix_environment_builds_created_at"), table_name="environment_builds")
    op.drop_index(op.f("ix_environment_builds_archive_blob"), table_name="environment_builds")
    op.drop_table("environment_builds")
    op.drop_index(op.f("ix_runners_heartbeat_at"), table_name="runners")
    op.drop_table("runners")
    op.drop_index("uq_environments_team_name", table_name="environments", postgresql_nulls_not_distinct=True)
    op.drop_table("environments")
