"""Teams take turns on a base's trainers by tokens"""

from alembic import op
import sqlalchemy as sa

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operations", sa.Column("num_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "training_turns",
        sa.Column("base_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("start_tag", sa.BigInteger(), nullable=False),
        sa.Column("finish_tag", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["base_id"], ["models.id"], name=op.f("fk_training_turns_base_id")),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_training_turns_team_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("base_id", "team_id", name=op.f("pk_training_turns")),
    )


def downgrade() -> None:
    op.drop_table("training_turns")
    op.drop_column("operations", "num_tokens")
