"""Roles, scoped and expiring keys, quotas, sessions"""

from alembic import op
import sqlalchemy as sa

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


QUOTAS = {
    "max_models": sa.Integer(),
    "max_storage_bytes": sa.BigInteger(),
    "max_concurrent_rollouts": sa.Integer(),
    "max_training_tokens_per_day": sa.BigInteger(),
}
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("teams", sa.Column("disabled_at", TIME, nullable=True))
    for name, kind in QUOTAS.items():
        op.add_column("teams", sa.Column(name, kind, nullable=True))
    op.create_table(
        "training_usage",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("num_tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_training_usage_team_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("team_id", "day", name=op.f("pk_training_usage")),
    )
    _keys()
    for plane in ("trainers", "samplers"):
        op.add_column(plane, sa.Column("drained_at", TIME, nullable=True))
    op.add_column("models", sa.Column("paused_at", TIME, nullable=True))
    op.add_column("models", sa.Column("pause_reason", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("paused_by", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_models_paused_by"), "models", "paused_by in ('team', 'admin', 'guard')")
    op.drop_constraint("fk_events_team_id", "events", type_="foreignkey")
    op.drop_constraint("fk_events_key_id", "events", type_="foreignkey")
    op.add_column("events", sa.Column("actor", sa.Text(), nullable=True))
    op.create_index(op.f("ix_events_subject_id_id"), "events", ["subject_id", "id"], unique=False)


def _keys() -> None:
    """Keys that are there may do what they could: all for their team, or for the service."""
    op.add_column("api_keys", sa.Column("role", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=True))
    op.execute(
        """
        update api_keys set
            role = case when is_admin then 'admin' else 'member' end,
            scopes = case when is_admin then array['read', 'sample', 'train', 'keys', 'admin']
                else array['read', 'sample', 'train'] end
        """
    )
    op.alter_column("api_keys", "role", nullable=False)
    op.alter_column("api_keys", "scopes", nullable=False)
    op.drop_column("api_keys", "is_admin")
    op.create_check_constraint(
        op.f("ck_api_keys_role"), "api_keys", "role in ('viewer', 'member', 'team_admin', 'admin')"
    )
    op.add_column("api_keys", sa.Column("model_ids", sa.ARRAY(sa.Uuid()), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", TIME, nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", TIME, nullable=True))
    op.add_column("api_keys", sa.Column("replaces_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_api_keys_replaces_id"), "api_keys", "api_keys", ["replaces_id"], ["id"])
    op.create_index(op.f("ix_api_keys_team_id_created_at"), "api_keys", ["team_id", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_events_subject_id_id"), table_name="events")
    op.drop_column("events", "actor")
    op.create_foreign_key("fk_events_key_id", "events", "api_keys", ["key_id"], ["id"])
    op.create_foreign_key("fk_events_team_id", "events", "teams", ["team_id"], ["id"])
    op.drop_constraint(op.f("ck_models_paused_by"), "models", type_="check")
    for name in ("paused_by", "pause_reason", "paused_at"):
        op.drop_column("models", name)
    for plane in ("trainers", "samplers"):
        op.drop_column(plane, "drained_at")
    op.drop_index(op.f("ix_api_keys_team_id_created_at"), table_name="api_keys")
    op.drop_constraint(op.f("fk_api_keys_replaces_id"), "api_keys", type_="foreignkey")
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys", type_="check")
    op.add_column("api_keys", sa.Column("is_admin", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("update api_keys set is_admin = role = 'admin'")
    op.alter_column("api_keys", "is_admin", server_default=None)
    for name in ("role", "scopes", "model_ids", "expires_at", "last_used_at", "replaces_id"):
        op.drop_column("api_keys", name)
    op.drop_table("training_usage")
    for name in ("disabled_at", *QUOTAS):
        op.drop_column("teams", name)
