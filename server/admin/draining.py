"""Draining trainers, samplers and runners.

A drained sampler gets no new request and loads no new adapter; what it is working on ends as if nothing were. A drained
trainer finishes its operation, hands back its leases and takes no other. A drained runner takes nothing new, and ends
what it holds. A process that starts again is a new one, and not drained.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from store.notify import ADAPTERS_CHANGED, OPERATION_QUEUED, PLACEMENT_QUEUED, TRAINERS_CHANGED, notify_async
from store.tables import RunnerRow, SamplerRow, TrainerRow
from wire.errors import Conflict, NotFound

_KINDS = {TrainerRow: "trainer", SamplerRow: "sampler", RunnerRow: "runner"}
_LISTED_BY = {TrainerRow: "headway drain", SamplerRow: "headway drain", RunnerRow: "headway runners list"}

Drained = TrainerRow | SamplerRow | RunnerRow
DrainedPlane = type[TrainerRow] | type[SamplerRow] | type[RunnerRow]


async def drain(session: AsyncSession, plane: DrainedPlane, plane_id: UUID, actor: Actor) -> None:
    """Give it no new work. Raises NotFound, and Conflict for one that has stopped."""
    row, kind = await _find(session, plane, plane_id), _KINDS[plane]
    if row.stopped_at is not None:
        raise Conflict(f"the {kind} {plane_id} has stopped, so there is nothing to drain")
    if row.drained_at is None:
        row.drained_at = await session.scalar(select(func.clock_timestamp()))
        record(session, actor, f"drain_{kind}", subject_id=row.id, host=row.host, pid=row.pid)
    await _wake(session, row)


async def undrain(session: AsyncSession, plane: DrainedPlane, plane_id: UUID, actor: Actor) -> None:
    """Have it work again. Raises NotFound."""
    row = await _find(session, plane, plane_id)
    if row.drained_at is not None:
        row.drained_at = None
        record(session, actor, f"undrain_{_KINDS[plane]}", subject_id=row.id, host=row.host, pid=row.pid)
    await _wake(session, row)


async def _find(session: AsyncSession, plane: DrainedPlane, plane_id: UUID) -> Drained:
    row: Drained | None = await session.get(plane, plane_id, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no {_KINDS[plane]} {plane_id}; see '{_LISTED_BY[plane]}'")
    return row


async def _wake(session: AsyncSession, row: Drained) -> None:
    """Those who go by it look again: samplers at what they shall hold, trainers and runners at what they may take."""
    await session.flush()
    if isinstance(row, RunnerRow):
        await notify_async(session, PLACEMENT_QUEUED, "")
    elif isinstance(row, SamplerRow):
        await notify_async(session, ADAPTERS_CHANGED, row.base_id.hex)
    else:
        await notify_async(session, TRAINERS_CHANGED, row.base_id.hex)
        await notify_async(session, OPERATION_QUEUED, row.base_id.hex)
