"""What a trainer made of the tokens of recorded samples. It goes when its sample goes, and that with its trace."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt


class TrainerLogprobsRow(Base):
    """The output tokens of a sample, as the last pass over them scored them.

    `operation_id`: that pass, which says of which model. `checkpoint_id`, `step`: the weights it went over; null and 0
    for an adapter that no step has changed yet. `logprobs`: float32 nats, one an output token, as
    `store.rollouts.arrays` packs them.
    """

    __tablename__ = "trainer_logprobs"
    __table_args__ = (
        ForeignKeyConstraint(
            ["team_id", "trace_id", "digest"],
            ["samples.team_id", "samples.trace_id", "samples.digest"],
            ondelete="CASCADE",
        ),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    operation_id: Mapped[uuid.UUID]
    checkpoint_id: Mapped[uuid.UUID | None]
    step: Mapped[int]
    computed_at: Mapped[CreatedAt]
    logprobs: Mapped[bytes]
