"""Base models of the catalog, as operators register them."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.admin.types import Base, BaseRequest
from server.audit.recording import Actor, record
from server.values.paging import Page, page_of
from store.catalog import ensure_base
from store.planes.registration import takes_requests
from store.planes.trainer_availability import trainer_availability_async
from store.tables import ModelRow, SamplerRow
from wire.errors import Conflict


async def list_bases(session: AsyncSession, cursor: str | None, limit: int) -> Page[Base]:
    """Every base, oldest first."""
    query = select(ModelRow).where(ModelRow.weights.is_not(None))
    rows, following = await page_of(session, query, (ModelRow.created_at, ModelRow.id), cursor, limit)
    return Page(items=[await _describe(session, row[0]) for row in rows], next_cursor=following)


async def register_base(session: AsyncSession, request: BaseRequest, actor: Actor) -> Base:
    """Register a base, or point it at other weights while nothing was forked from it. Its workers are started with
    `headway trainer --base NAME` and `headway sampler --base NAME`, and find there what to load. Raises Conflict."""
    try:
        base_id = await session.run_sync(lambda sync: ensure_base(sync, request.name, request.weights))
    except ValueError as error:
        raise Conflict(f"{error}; register the new weights under another name") from error
    base = await session.get_one(ModelRow, base_id)
    await session.refresh(base)
    record(session, actor, "register_base", subject_id=base_id, name=base.slug, weights=request.weights)
    return await _describe(session, base)


async def _describe(session: AsyncSession, row: ModelRow) -> Base:
    (supply,) = await trainer_availability_async(session, row.id)
    samplers = select(func.count()).select_from(SamplerRow).where(SamplerRow.base_id == row.id, takes_requests())
    return Base(
        id=row.id,
        name=row.slug,
        weights=row.weights or "",
        created_at=row.created_at,
        is_loaded=supply.is_loaded,
        num_trainers=supply.num_ready,
        num_samplers=await session.scalar(samplers) or 0,
        num_queued=supply.num_open,
        shortage=supply.shortage,
    )
