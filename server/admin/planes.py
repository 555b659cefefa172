"""Trainers and samplers: what there is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.admin.types import Sampler, Trainer
from server.values.paging import Page, page_of
from store.planes.registration import is_live
from store.tables import ModelLeaseRow, ModelRow, SamplerAdapterRow, SamplerRow, TrainerRow


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


def _state(row: TrainerRow | SamplerRow, lives: bool) -> Any:
    return "live" if lives else "stopped" if row.stopped_at else "silent"


def _facts(row: TrainerRow | SamplerRow, base: str) -> dict[str, Any]:
    names = ("id", "host", "pid", "started_at", "heartbeat_at", "drained_at")
    return {**{name: getattr(row, name) for name in names}, "base": base}
