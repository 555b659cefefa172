"""Trainers and samplers: what there is, and draining them.

A drained sampler gets no new request and loads no new adapter; what it is working on ends as if nothing were. A drained
trainer finishes its operation, hands back its leases and takes no other. A process that starts again is a new one, and
not drained.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.admin.types import Sampler, Trainer
from server.audit.recording import Actor, record
from server.values.paging import Page, page_of
from store.notify import ADAPTERS_CHANGED, OPERATION_QUEUED, TRAINERS_CHANGED, notify_async
from store.planes.registration import is_live
from store.tables import ModelLeaseRow, ModelRow, SamplerAdapterRow, SamplerRow, TrainerRow
from wire.errors import Conflict, NotFound

Plane = type[TrainerRow] | type[SamplerRow]


async def list_trainers(session: AsyncSession, cursor: str | None, limit: int) -> Page[Trainer]:
    """Every trainer whose row is still kept, oldest first."""
    place = TrainerRow.started_at, TrainerRow.id
    rows, following = await page_of(session, _trainers(), place, cursor, limit)
    return Page(items=[_trainer(*row) for row in rows], next_cursor=following)


async def list_samplers(session: AsyncSession, cursor: str | None, limit: int) -> Page[Sampler]:
    """Every sampler whose row is still kept, oldest first."""
    place = SamplerRow.started_at, SamplerRow.id
    rows, following = await page_of(session, _samplers(), place, cursor, limit)
    return Page(items=[_sampler(*row) for row in rows], next_cursor=following)


async def describe_trainer(session: AsyncSession, trainer_id: UUID) -> Trainer:
    """One trainer."""
    return _trainer(*(await session.execute(_trainers().where(TrainerRow.id == trainer_id))).one())


async def describe_sampler(session: AsyncSession, sampler_id: UUID) -> Sampler:
    """One sampler."""
    return _sampler(*(await session.execute(_samplers().where(SamplerRow.id == sampler_id))).one())


async def drain(session: AsyncSession, plane: Plane, plane_id: UUID, actor: Actor) -> None:
    """Give it no new work. Raises NotFound, and Conflict for one that has stopped."""
    row = await _find(session, plane, plane_id)
    if row.stopped_at is not None:
        raise Conflict(f"the {_kind(plane)} {plane_id} has stopped, so there is nothing to drain")
    if row.drained_at is None:
        row.drained_at = await session.scalar(select(func.clock_timestamp()))
        record(session, actor, f"drain_{_kind(plane)}", subject_id=row.id, host=row.host, pid=row.pid)
    await _wake(session, plane, row)


async def undrain(session: AsyncSession, plane: Plane, plane_id: UUID, actor: Actor) -> None:
    """Have it work again. Raises NotFound."""
    row = await _find(session, plane, plane_id)
    if row.drained_at is not None:
        row.drained_at = None
        record(session, actor, f"undrain_{_kind(plane)}", subject_id=row.id, host=row.host, pid=row.pid)
    await _wake(session, plane, row)


def _trainers() -> Select[TrainerRow, str, bool, int]:
    """Trainers with their base, whether they live, and how many models they hold."""
    leases = select(func.count()).where(ModelLeaseRow.trainer_id == TrainerRow.id).scalar_subquery()
    query = select(TrainerRow, ModelRow.slug, is_live(TrainerRow), leases)
    return query.join(ModelRow, ModelRow.id == TrainerRow.base_id)


def _samplers() -> Select[SamplerRow, str, bool, int]:
    """Samplers with their base, whether they live, and how many adapters they have loaded."""
    loaded = SamplerAdapterRow.sampler_id == SamplerRow.id, SamplerAdapterRow.state == "loaded"
    query = select(
        SamplerRow, ModelRow.slug, is_live(SamplerRow), select(func.count()).where(*loaded).scalar_subquery()
    )
    return query.join(ModelRow, ModelRow.id == SamplerRow.base_id)


def _trainer(row: TrainerRow, base: str, lives: bool, num_models: int) -> Trainer:
    state = "loading" if lives and row.is_loading else _state(row, lives)
    return Trainer(**_facts(row, base), state=state, num_models=num_models)


def _sampler(row: SamplerRow, base: str, lives: bool, num_adapters: int) -> Sampler:
    state = _state(row, lives)
    more: dict[str, Any] = {"url": row.url, "backend": row.backend, "trouble": row.trouble}
    return Sampler(**_facts(row, base), **more, state=state, num_adapters=num_adapters)


async def _find(session: AsyncSession, plane: Plane, plane_id: UUID) -> TrainerRow | SamplerRow:
    row: TrainerRow | SamplerRow | None = await session.get(plane, plane_id, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no {_kind(plane)} {plane_id}; see 'headway drain'")
    return row


async def _wake(session: AsyncSession, plane: Plane, row: TrainerRow | SamplerRow) -> None:
    """Those who go by it look again: samplers at what they shall hold, trainers at what they may take."""
    await session.flush()
    if plane is SamplerRow:
        await notify_async(session, ADAPTERS_CHANGED, row.base_id.hex)
        return
    await notify_async(session, TRAINERS_CHANGED, row.base_id.hex)
    await notify_async(session, OPERATION_QUEUED, row.base_id.hex)


def _kind(plane: Plane) -> str:
    return "trainer" if plane is TrainerRow else "sampler"


def _state(row: TrainerRow | SamplerRow, lives: bool) -> Any:
    return "live" if lives else "stopped" if row.stopped_at else "silent"


def _facts(row: TrainerRow | SamplerRow, base: str) -> dict[str, Any]:
    names = ("id", "host", "pid", "started_at", "heartbeat_at", "drained_at")
    return {**{name: getattr(row, name) for name in names}, "base": base}
