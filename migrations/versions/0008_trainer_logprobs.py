"""What the trainer made of the tokens of a rollout"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trainer_logprobs",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("operation_id", sa.Uuid(), nullable=False),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column(
            "computed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("logprobs", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id", "trace_id", "digest"],
            ["samples.team_id", "samples.trace_id", "samples.digest"],
            name=op.f("fk_trainer_logprobs_team_id_trace_id_digest"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "trace_id", "digest", name=op.f("pk_trainer_logprobs")),
    )


def downgrade() -> None:
    op.drop_table("trainer_logprobs")
