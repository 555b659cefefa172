"""From the `model` (and `checkpoint`) of a request to the adapter that answers it, and the samplers that hold it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.auth.service import authenticate
from server.context import Context
from server.gateway.sampler_client import SamplerGone
from server.models import repository
from server.models.heads import adapter_of, load_adapter
from server.models.service import get_checkpoint, no_such_model
from store.adapters import samplers_holding, want_checkpoint
from store.tables import AdapterWantRow, CheckpointRow, SamplerRow
from wire.catalog import ServingCheckpoint
from wire.engine import BaseModelInfo
from wire.errors import Unavailable

T = TypeVar("T")

_PIN_S = 600.0
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request, fixed when the request came: a promotion in between changes nothing."""

    team_id: UUID
    slug: str
    base_id: UUID
    base_slug: str
    info: BaseModelInfo | None
    checkpoint: CheckpointRow | None
    adapter: str
    samplers: list[SamplerRow]

    @property
    def serving(self) -> ServingCheckpoint | None:
        """The checkpoint as replies name it; None: the base weights."""
        row = self.checkpoint
        return ServingCheckpoint(id=str(row.id), name=row.name, step=row.step) if row else None


async def find_target(context: Context, key: str, model: str, pinned: str | None) -> Target:
    """Authenticate and resolve in one session. Raises NotFound for the model or the pinned checkpoint."""
    async with context.database.session() as session:
        caller = await authenticate(session, key)
        return await _resolve(session, caller.team_id, model, pinned)


async def on_a_sampler(
    context: Context, target: Target, affinity: bytes, work: Callable[[SamplerRow], Awaitable[T]]
) -> T:
    """What `work` makes of a sampler that holds the target's adapter. When that one is gone, another is tried.

    Raises Unavailable when none lives, or none loads the adapter in time.
    """
    candidates, tried = target.samplers, set[UUID]()
    for attempt in range(_ATTEMPTS):
        if not candidates:
            candidates = await _wait_for_samplers(context, target)
        fresh = [sampler for sampler in candidates if sampler.id not in tried]
        sampler = context.sampler_pool.choose(fresh or candidates, affinity)
        tried.add(sampler.id)
        try:
            return await work(sampler)
        except SamplerGone:
            if attempt == _ATTEMPTS - 1:
                raise
        async with context.database.session() as session:
            candidates = await samplers_holding(session, target.base_id, target.adapter)
    raise AssertionError("the last attempt returns or raises")


async def _resolve(session: AsyncSession, team_id: UUID, reference: str, pinned: str | None) -> Target:
    found = await repository.find_model(session, team_id, reference)
    if found is None:
        raise no_such_model(reference)
    model, base, checkpoint = found
    base = base or model
    if pinned is not None:
        checkpoint = await get_checkpoint(session, model, pinned)
        await _keep_pinned(session, checkpoint.id)
    adapter = adapter_of(base.id, checkpoint)
    samplers = await samplers_holding(session, base.id, adapter)
    info = BaseModelInfo(**base.info) if base.info else None
    return Target(team_id, model.slug, base.id, base.slug, info, checkpoint, adapter, samplers)


async def _keep_pinned(session: AsyncSession, checkpoint_id: UUID) -> None:
    """Have samplers hold the checkpoint. They are woken only when the last pin has run half its time."""
    half_time = func.clock_timestamp() + timedelta(seconds=_PIN_S / 2)
    fresh = select(AdapterWantRow.until > half_time).where(AdapterWantRow.checkpoint_id == checkpoint_id)
    if not await session.scalar(fresh):
        await want_checkpoint(session, checkpoint_id, _PIN_S)


async def _wait_for_samplers(context: Context, target: Target) -> list[SamplerRow]:
    samplers = await load_adapter(context, target.base_id, target.checkpoint)
    if not samplers:
        raise Unavailable(
            f"no sampler for the base {target.base_slug!r} is running; try again in a few seconds", retry_after_s=2
        )
    return samplers
