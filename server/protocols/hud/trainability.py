"""`/v2/models/{model_id}/trainability`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from server.catalog.service import get_callers_model
from server.guard.types import TrainabilityReport
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.trainability.report import trainability

router = HudRouter(tags=["trainability"])


@router.get("/v2/models/{model_id}/trainability")
async def get_trainability(
    context: ContextDep,
    caller: CallerDep,
    model_id: str,
    cursor: Annotated[str | None, Query(max_length=3000)] = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> TrainabilityReport:
    """Per task: reward, spread and signal over time, and whether to keep it, drop it or make it harder."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await trainability(session, model, cursor=cursor, limit=limit)
