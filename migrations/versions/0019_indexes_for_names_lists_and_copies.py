"""Indexes for names, lists and copies of checkpoints"""

from alembic import op
import sqlalchemy as sa

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_COPIES = sa.text("files_id <> id")

INDEXES = [
    ("ix_models_lower_slug", "models", [sa.text("lower(slug)")], None),
    ("ix_models_lower_name", "models", [sa.text("lower(name)")], None),
    ("ix_models_last_segment", "models", [sa.text("lower(regexp_replace(slug, '^.*/', ''))")], None),
    ("ix_models_team_id_created_at_id", "models", ["team_id", "created_at", "id"], None),
    ("ix_models_bases", "models", ["created_at"], sa.text("weights is not null")),
    ("ix_models_forked_from_id", "models", ["forked_from_id"], None),
    ("ix_checkpoints_model_id_name", "checkpoints", ["model_id", "name"], None),
    ("ix_checkpoints_commits", "checkpoints", ["model_id", "committed_at", "step", "id"], None),
    ("ix_checkpoints_copies", "checkpoints", ["files_id"], _COPIES),
    ("ix_checkpoints_copies_of_model", "checkpoints", ["files_model_id"], _COPIES),
    ("ix_checkpoint_names_created_at_id", "checkpoint_names", ["created_at", "id"], None),
    (
        "ix_operations_blobs",
        "operations",
        ["finished_at"],
        sa.text("blobs_dropped_at is null and (payload_blob is not null or result_blob is not null)"),
    ),
    ("ix_runs_model_id_created_at", "runs", ["model_id", "created_at"], None),
    ("ix_alarms_open", "alarms", ["created_at"], sa.text("acknowledged_at is null")),
]


def upgrade() -> None:
    # Built within the migration's transaction, as all others are: readers go on, and writers wait for seconds.
    for name, table, columns, where in INDEXES:
        op.create_index(name, table, columns, postgresql_where=where)


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
