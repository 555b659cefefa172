"""`/system`: trainers, samplers, runners and what they hold, the queues, the disks. Of other teams' work only how much
it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from sqlalchemy import Select, func, literal_column, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.http.context import ContextDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.system.disks import disks, in_object_stores
from server.pages.system.utilisation import BUSY, OVER_MIN, busy_share
from server.principals.callers import Caller
from server.runners.operating import present_runners
from store.planes.presence import PRESENT
from store.planes.registration import has_trouble, is_live
from store.planes.served import served_checkpoint_id
from store.planes.trainer_availability import trainer_availability_async
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, SamplerAdapterRow, SamplerRow, ServerRow, TrainerRow
from wire.adapter_names import adapter_name_sql
from wire.loaded import Loaded

_MOST = 100

router = PageRouter()

_QUEUE = text("""
    select
        m.id, m.slug, m.team_id,
        count(*) filter (where o.state = 'running') as running,
        count(*) filter (where o.state = 'queued') as queued,
        min(o.created_at) as oldest,
        min(o.kind) filter (where o.state = 'running') as kind
    from operations o join models m on m.id = o.model_id
    where o.state in ('queued', 'running')
    group by m.id
    order by oldest
""")

_PLACED = text("""
    select kind,
        count(*) filter (where state = 'running') as running,
        count(*) filter (where state = 'queued') as queued,
        min(available_at) filter (where state = 'queued') as oldest
    from placements where state <> 'ended' group by kind order by kind
""")


@dataclass(frozen=True, slots=True)
class Plane:
    """A trainer or sampler. `holds`: names of the team's models, and how many are other teams'."""

    row: Any
    base: str
    state: str
    holds: list[str]
    others: int
    failed: int = 0
    trouble: str | None = None
    busy: float | None = None

    @property
    def loaded(self) -> str:
        """What it has loaded, in a line; empty while it loads."""
        return Loaded.read(self.row.details).sentence() if self.row.details else ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A model with open operations; no name where the visitor may not see it."""

    id: UUID | None
    name: str
    running: int
    queued: int
    oldest: datetime
    kind: str | None


@router.get("/system")
async def system(context: ContextDep, request: Request, visitor: VisitorDep) -> Response:
    """The state of the box."""
    async with context.database.session() as session:
        values: dict[str, Any] = {
            "bases": await trainer_availability_async(session),
            "trainers": await _trainers(session, visitor.caller),
            "samplers": await _samplers(session, visitor.caller),
            "queue": await _queue(session, visitor.caller),
            "runners": await present_runners(session, _MOST),
            "placed": await _placed(session),
            "servers": await _servers(session),
        }
    values |= {"traffic": await asyncio.to_thread(context.metrics.traffic.read), "busy_over_min": OVER_MIN}
    values |= {"disks": await disks(context.settings), "in_object_stores": in_object_stores(context.settings)}
    return page(request, "system/system.html", visitor, **values)


async def _trainers(session: AsyncSession, caller: Caller) -> list[Plane]:
    leases: dict[UUID, list[tuple[str, bool]]] = {}
    query = (
        select(ModelLeaseRow.trainer_id, ModelRow.slug, ModelRow.id, ModelRow.team_id)
        .join(ModelRow, ModelRow.id == ModelLeaseRow.model_id)
        .where(ModelLeaseRow.expires_at > func.clock_timestamp())
        .order_by(ModelRow.slug)
    )
    for trainer_id, slug, model_id, owner in await session.execute(query):
        leases.setdefault(trainer_id, []).append((slug, _is_named(caller, model_id, owner)))
    rows = _rows(TrainerRow).add_columns(BUSY.c.busy_s).outerjoin(BUSY, BUSY.c.trainer_id == TrainerRow.id)
    return [
        replace(_plane(row, base, lives, leases.get(row.id, [])), busy=busy_share(busy_s) if lives else None)
        for row, base, lives, busy_s in await session.execute(rows)
    ]


async def _samplers(session: AsyncSession, caller: Caller) -> list[Plane]:
    """What they hold is shown as text: `arith-rl 0007-3f9c21ab`."""
    adapter = literal_column(adapter_name_sql("checkpoints.files_id"))
    query = (
        select(SamplerAdapterRow.sampler_id, ModelRow.id, ModelRow.slug, CheckpointRow.name)
        .join(SamplerRow, SamplerRow.id == SamplerAdapterRow.sampler_id)
        .join(ModelRow, (ModelRow.base_id == SamplerRow.base_id) & (ModelRow.team_id == caller.team_id))
        .join(CheckpointRow, (CheckpointRow.id == served_checkpoint_id()) & (adapter == SamplerAdapterRow.adapter))
        .where(is_live(SamplerRow), SamplerAdapterRow.state == "loaded")
        .order_by(ModelRow.slug)
    )
    heads: dict[UUID, list[tuple[str, bool]]] = {}
    for sampler_id, model_id, slug, name in await session.execute(query):
        heads.setdefault(sampler_id, []).append((f"{slug} {name}", _is_named(caller, model_id, caller.team_id)))
    rows = _rows(SamplerRow).add_columns(_num_adapters("loaded"), _num_adapters("failed"))
    planes: list[Plane] = []
    for row, base, lives, loaded, failed in await session.execute(rows):
        mine = heads.get(row.id, [])
        unnamed = [("", False)] * max(0, loaded - len(mine))
        planes.append(replace(_plane(row, base, lives, mine + unnamed, failed), trouble=row.trouble))
    return planes


async def _servers(session: AsyncSession) -> list[tuple[ServerRow, str]]:
    """Those that live, the oldest first, and what they serve with."""
    live = text(f"servers.number = any({PRESENT})")
    rows = await session.scalars(select(ServerRow).where(live).order_by(ServerRow.started_at, ServerRow.number))
    return [(row, Loaded.read(row.details).sentence()) for row in rows]


def _num_adapters(state: str) -> Any:
    this = (SamplerAdapterRow.sampler_id == SamplerRow.id, SamplerAdapterRow.state == state)
    return select(func.count()).select_from(SamplerAdapterRow).where(*this).correlate(SamplerRow).scalar_subquery()


def _rows(kind: type[TrainerRow] | type[SamplerRow]) -> Select[Any, str, bool]:
    """Those that are not marked as stopped, and a base's last sampler if it gave up; live ones first."""
    return (
        select(kind, ModelRow.slug, is_live(kind))
        .join(ModelRow, ModelRow.id == kind.base_id)
        .where(kind.stopped_at.is_(None) if kind is TrainerRow else or_(kind.stopped_at.is_(None), has_trouble()))
        .order_by(is_live(kind).desc(), kind.started_at.desc())
        .limit(_MOST)
    )


def _plane(row: Any, base: str, lives: bool, holds: list[tuple[str, bool]], failed: int = 0) -> Plane:
    loading = lives and isinstance(row, TrainerRow) and row.is_loading
    state = "starting" if loading else "live" if lives else "stopped" if row.stopped_at else "silent"
    if lives and row.drained_at is not None:
        state = "drained"
    mine = [name for name, is_mine in holds if is_mine]
    return Plane(row, base, state, mine, len(holds) - len(mine), failed)


async def _placed(session: AsyncSession) -> list[Any]:
    return list(await session.execute(_PLACED))


async def _queue(session: AsyncSession, caller: Caller) -> list[Waiting]:
    rows = await session.execute(_QUEUE)
    return [
        Waiting(
            row.id if _is_named(caller, row.id, row.team_id) else None,
            row.slug if _is_named(caller, row.id, row.team_id) else "another model",
            row.running,
            row.queued,
            row.oldest,
            row.kind,
        )
        for row in rows
    ]


def _is_named(caller: Caller, model_id: UUID, owner: UUID | None) -> bool:
    """Whether this caller may read the name of a model."""
    return owner == caller.team_id and (caller.model_ids is None or model_id in caller.model_ids)
