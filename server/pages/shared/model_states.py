"""What a model is doing, in a word and a sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.oplog.conditions import PENDING_GRADIENT
from store.tables import ModelRow

_WORK = text(f"""
    select
        o.model_id,
        count(*) filter (where o.state = 'running') as running,
        count(*) filter (where o.state = 'queued') as queued,
        count(*) filter (where {PENDING_GRADIENT}) as pending,
        max(o.retry_reason) filter (where o.retry_at is not null) as trouble
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
    is_paused: bool = False
    trouble: str | None = None
    """Why the first open operation is put off."""

    @property
    def word(self) -> str:
        """`training`, `paused`, `waiting`, `queued` or `idle`."""
        if self.running:
            return "training"
        if self.is_paused:
            return "paused"
        if self.queued:
            return "queued" if self.has_trainer and self.trouble is None else "waiting"
        return "idle"

    @property
    def sentence(self) -> str:
        """What the word means here."""
        if self.running:
            return f"a trainer works on it; {self.queued} more queued" if self.queued else "a trainer works on it"
        if self.is_paused:
            return f"training is paused; {self.queued} queued" if self.queued else "training is paused"
        if self.queued:
            if self.trouble is not None:
                return f"{self.queued} queued, and tried again soon: {self.trouble}"
            return f"{self.queued} queued" if self.has_trainer else f"{self.queued} queued, and no trainer for its base"
        return "nothing queued"


async def model_states(
    session: AsyncSession, models: Sequence[ModelRow], bases_with_trainer: Collection[UUID]
) -> dict[UUID, ModelState]:
    """The state of each of these models."""
    rows = await session.execute(_WORK, {"model_ids": [model.id for model in models]})
    work = {row.model_id: (row.running, row.queued, row.pending, row.trouble) for row in rows}
    states = {model.id: work.get(model.id, (0, 0, 0, None)) for model in models}
    return {
        model.id: ModelState(
            *states[model.id][:3],
            has_trainer=model.base_id in bases_with_trainer,
            is_paused=model.paused_at is not None,
            trouble=states[model.id][3],
        )
        for model in models
    }
