"""`/healthz`: this process runs. `/readyz`: the database answers, and every base has a sampler and a trainer, or would
get one: where trainers start on demand, none is alive while there is nothing to train."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from server.context import ContextDep
from store.adapters import base_adapter_name
from store.database import AsyncDatabase
from store.planes import is_live
from store.supply import supplies_async
from store.tables import SamplerAdapterRow, SamplerRow

log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])


class BaseReadiness(BaseModel):
    """A base: live trainers, live samplers that hold its weights, queued operations, and why nothing is trained."""

    base: str
    loaded: bool
    trainers: int
    samplers: int
    queued: int
    shortage: str | None


class Readiness(BaseModel):
    """Whether the whole loop can run, and what is missing."""

    ready: bool
    database: bool
    bases: list[BaseReadiness]
    stopping: bool = False


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process runs."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
async def readyz(context: ContextDep) -> JSONResponse:
    """200 when the whole loop can run; 503 with what is missing, and while this server stops."""
    stopping = context.shutdown.is_begun
    try:
        bases = await _bases(context.database)
    except SQLAlchemyError as error:
        log.warning("database_away", error=str(error).splitlines()[0])
        return JSONResponse({"ready": False, "database": False, "bases": [], "stopping": stopping}, 503)
    on_demand = context.settings.trainer_start is not None
    ready = not stopping and all(
        (base["trainers"] or (on_demand and base["loaded"])) and base["samplers"] for base in bases
    )
    return JSONResponse({"ready": ready, "database": True, "bases": bases, "stopping": stopping}, 200 if ready else 503)


async def _bases(database: AsyncDatabase) -> list[dict[str, Any]]:
    """Each base with its live trainers, and the live samplers that hold its weights."""
    async with database.session() as session:
        supplies = await supplies_async(session)
        holding = await session.execute(
            select(SamplerAdapterRow.adapter, func.count())
            .join(SamplerRow, SamplerRow.id == SamplerAdapterRow.sampler_id)
            .where(is_live(SamplerRow), SamplerAdapterRow.state == "loaded")
            .group_by(SamplerAdapterRow.adapter)
        )
        num_holding = {row[0]: row[1] for row in holding}
    return [
        {
            "base": supply.base,
            "loaded": supply.is_loaded,
            "trainers": supply.num_ready,
            "samplers": num_holding.get(base_adapter_name(supply.base_id), 0),
            "queued": supply.num_open,
            "shortage": supply.shortage,
        }
        for supply in supplies
    ]
