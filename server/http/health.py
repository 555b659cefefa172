"""`/healthz`: this process runs. `/readyz`: a chat with any base would be served now, and what it teaches be trained;
else what is missing. `/readyz/server`: this process takes requests, whatever there is of trainers and samplers; a load
balancer goes by it.

A base is served by a sampler that lives, is not drained, has loaded the base's weights and answers. It is trained by a
trainer that is ready; where trainers start on demand, none lives while there is nothing to train, and the base is ready
once one has loaded it, unless the last start failed. Where samplers are scaled to zero, a base that wants none lacks
none.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import and_, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from server.http.access import ANYBODY
from server.http.context import Context, ContextDep
from server.http.routing import KeyedRouter
from store.database import DATABASE_AWAY
from store.planes.registration import is_live
from store.planes.sampler_demand import sampler_demands_async
from store.planes.trainer_availability import TrainerAvailability, trainer_availability_async
from store.pool_queue import TooBusy
from store.tables import SamplerAdapterRow, SamplerRow
from wire.adapter_names import base_adapter_name_sql

log = structlog.get_logger(__name__)
router = KeyedRouter(tags=["health"])

_STOPPING = "this server is stopping; another one takes its requests"
_DATABASE_AWAY = "the database does not answer"
_DATABASE_S = 2.0
"""Shorter than probes wait."""


class BaseReadiness(BaseModel):
    """A base: trainers that are ready, samplers that would serve it, queued operations, and why nothing is trained."""

    base: str
    loaded: bool
    trainers: int
    samplers: int
    queued: int
    shortage: str | None


class Readiness(BaseModel):
    """Whether the whole loop can run, and what is missing, each in a sentence."""

    ready: bool
    missing: list[str]
    database: bool
    bases: list[BaseReadiness]
    stopping: bool = False


class ServerReadiness(BaseModel):
    """Whether this process takes requests, and if not, why, in a sentence."""

    ready: bool
    missing: list[str]


@router.get("/healthz", dependencies=[ANYBODY])
async def healthz() -> dict[str, str]:
    """Whether this process runs."""
    return {"status": "ok"}


@router.get(
    "/readyz/server",
    response_model=ServerReadiness,
    responses={503: {"model": ServerReadiness, "description": "Not ready"}},
    dependencies=[ANYBODY],
)
async def readyz_server(context: ContextDep) -> JSONResponse:
    """200 when this process takes requests; 503 while it stops, and while its database does not answer. Trainers and
    samplers may be missing."""
    missing = [_STOPPING] if context.shutdown.is_begun else []
    if not await _database_answers(context):
        missing.append(_DATABASE_AWAY)
    return _readiness(missing, {})


async def _database_answers(context: Context) -> bool:
    try:
        async with asyncio.timeout(_DATABASE_S):
            await context.database_answering.ask("select 1")
    except (*DATABASE_AWAY, TimeoutError) as error:
        log.warning("database_away", error=str(error).partition("\n")[0] or f"no answer within {_DATABASE_S:.0f} s")
        return False
    return True


@router.get(
    "/readyz",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready"}},
    dependencies=[ANYBODY],
)
async def readyz(context: ContextDep) -> JSONResponse:
    """200 when the whole loop can run; 503 with what is missing, and while this server stops."""
    stopping = context.shutdown.is_begun
    missing = [_STOPPING] if stopping else []
    facts: dict[str, Any] = {"database": True, "bases": [], "stopping": stopping}
    try:
        supplies, samplers, wanting = await _planes(context)
    except (SQLAlchemyError, TooBusy) as error:
        log.warning("database_away", error=str(error).splitlines()[0])
        return _readiness([*missing, _DATABASE_AWAY], {**facts, "database": False})
    if not supplies:
        missing.append("no base model is registered; 'headway sampler --base NAME=PATH' and 'headway trainer' do it")
    on_demand = context.settings.trainer_start is not None
    for supply in supplies:
        able, lack = await _able_to_serve(context, supply.base, samplers.get(supply.base_id, []))
        if lack and (supply.base_id in samplers or supply.base_id in wanting):
            missing.append(lack)
        if supply.shortage and not (on_demand and supply.is_loaded and supply.error is None):
            missing.append(supply.shortage)
        facts["bases"].append(_base(supply, able))
    return _readiness(missing, facts)


def _readiness(missing: list[str], facts: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"ready": not missing, "missing": missing, **facts}, 503 if missing else 200)


@dataclass(frozen=True, slots=True)
class _LiveSampler:
    """`state` of the base's weights there: None while they are not loaded; `error`: why they cannot be."""

    url: str
    is_drained: bool
    state: str | None
    error: str | None


async def _planes(context: Context) -> tuple[list[TrainerAvailability], dict[UUID, list[_LiveSampler]], set[UUID]]:
    """The supply of trainers, the live samplers by base, and the bases that want a sampler."""
    weights = SamplerAdapterRow.adapter == literal_column(base_adapter_name_sql("samplers.base_id"))
    query = (
        select(
            SamplerRow.base_id,
            SamplerRow.url,
            SamplerRow.drained_at.is_not(None),
            SamplerAdapterRow.state,
            SamplerAdapterRow.error,
        )
        .outerjoin(SamplerAdapterRow, and_(SamplerAdapterRow.sampler_id == SamplerRow.id, weights))
        .where(is_live(SamplerRow))
    )
    samplers = defaultdict[UUID, list[_LiveSampler]](list)
    policy = context.settings.elastic.policy
    async with context.background.session() as session:
        supplies = await trainer_availability_async(session)
        for base_id, url, is_drained, state, error in await session.execute(query):
            samplers[base_id].append(_LiveSampler(url, is_drained, state, error))
        demands = await sampler_demands_async(session)
    return supplies, samplers, {demand.base_id for demand in demands if demand.wanted(policy)}


async def _able_to_serve(context: Context, base: str, samplers: list[_LiveSampler]) -> tuple[int, str | None]:
    """How many samplers would serve a chat with the base weights; and if none would, why."""
    undrained = [sampler for sampler in samplers if not sampler.is_drained]
    loaded = [sampler.url for sampler in undrained if sampler.state == "loaded"]
    able = sum(await asyncio.gather(*(context.answering.ask(url) for url in loaded)))
    if able:
        return able, None
    if loaded:
        return 0, f"no sampler for base {base} answers"
    if refusal := next((sampler.error for sampler in undrained if sampler.error), None):
        return 0, f"no sampler for base {base} could load its weights: {refusal}"
    if undrained:
        return 0, f"no sampler for base {base} has loaded its weights yet"
    if samplers:
        return 0, f"every sampler for base {base} is drained; have one work again with 'headway undrain'"
    return 0, f"no sampler for base {base} is alive; start one with 'headway sampler --base {base}'"


def _base(supply: TrainerAvailability, num_samplers: int) -> dict[str, Any]:
    return {
        "base": supply.base,
        "loaded": supply.is_loaded,
        "trainers": supply.num_ready,
        "samplers": num_samplers,
        "queued": supply.num_open,
        "shortage": supply.shortage,
    }
