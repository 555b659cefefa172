"""What a model is doing, in a word and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.oplog.conditions import PENDING_GRADIENT

_WORK = text(f"""
    select
        o.model_id,
        count(*) filter (where o.state = 'running') as running,
        count(*) filter (where o.state = 'queued') as queued,
        count(*) filter (where {PENDING_GRADIENT}) as pending
    from operations o
    where o.model_id = any(:model_ids) and (o.state in ('queued', 'running') or ({PENDING_GRADIENT}))
    group by o.model_id
""")  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class ModelState:
    """Open operations of a model; `pending`: gradients that no step has applied yet."""

    running: int = 0
    queued: int = 0
    pending: int = 0
    has_trainer: bool = True

    @property
    def word(self) -> str:
        """`training`, `waiting`, `queued` or `idle`."""
        if self.running:
            return "training"
        if self.queued:
            return "queued" if self.has_trainer else "waiting"
        return "idle"

    @property
    def sentence(self) -> str:
        """What the word means here."""
        if self.running:
            return f"a trainer works on it; {self.queued} more queued" if self.queued else "a trainer works on it"
        if self.queued:
            return f"{self.queued} queued" if self.has_trainer else f"{self.queued} queued, and no trainer for its base"
        return "nothing queued"


async def model_states(
    session: AsyncSession, model_ids: Sequence[UUID], bases_with_trainer: Collection[UUID], base_of: dict[UUID, UUID]
) -> dict[UUID, ModelState]:
    """The state of each of these models."""
    rows = await session.execute(_WORK, {"model_ids": list(model_ids)})
    work = {row.model_id: (row.running, row.queued, row.pending) for row in rows}
    return {
        model_id: ModelState(*work.get(model_id, (0, 0, 0)), has_trainer=base_of.get(model_id) in bases_with_trainer)
        for model_id in model_ids
    }
