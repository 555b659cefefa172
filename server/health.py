"""`/healthz`: this process runs. `/readyz`: the database answers, and every base has a trainer and a sampler."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from server.context import ContextDep
from store.adapters import base_adapter_name
from store.database import AsyncDatabase
from store.planes import is_live
from store.tables import ModelRow, SamplerAdapterRow, SamplerRow, TrainerRow

log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process runs."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(context: ContextDep) -> JSONResponse:
    """200 when the whole loop can run; 503 with what is missing."""
    try:
        bases = await _bases(context.database)
    except SQLAlchemyError as error:
        log.warning("database_away", error=str(error).splitlines()[0])
        return JSONResponse({"ready": False, "database": False, "bases": []}, 503)
    ready = all(base["trainers"] and base["samplers"] for base in bases)
    return JSONResponse({"ready": ready, "database": True, "bases": bases}, 200 if ready else 503)


async def _bases(database: AsyncDatabase) -> list[dict[str, Any]]:
    """Each base with its live trainers, and the live samplers that hold its weights."""
    async with database.session() as session:
        bases = (await session.execute(select(ModelRow.id, ModelRow.slug).where(ModelRow.base_id.is_(None)))).all()
        trainers = await session.execute(
            select(TrainerRow.base_id, func.count()).where(is_live(TrainerRow)).group_by(TrainerRow.base_id)
        )
        holding = await session.execute(
            select(SamplerAdapterRow.adapter, func.count())
            .join(SamplerRow, SamplerRow.id == SamplerAdapterRow.sampler_id)
            .where(is_live(SamplerRow), SamplerAdapterRow.state == "loaded")
            .group_by(SamplerAdapterRow.adapter)
        )
        num_trainers = {row[0]: row[1] for row in trainers}
        num_holding = {row[0]: row[1] for row in holding}
    return [
        {
            "base": slug,
            "trainers": num_trainers.get(base_id, 0),
            "samplers": num_holding.get(base_adapter_name(base_id), 0),
        }
        for base_id, slug in bases
    ]
