"""`/v2/models/{model_id}/evals`, and jobs that are evaluations."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query

from server.catalog.service import get_callers_model
from server.evals import service
from server.guard.types import Eval, EvalRequest, EvaluationJob, EvaluationMark
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.values.paging import Page

router = HudRouter(tags=["evals"])


@router.get("/v2/models/{model_id}/evals")
async def list_evals(
    context: ContextDep,
    caller: CallerDep,
    model_id: str,
    benchmark: Annotated[str | None, Query(max_length=100)] = None,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Eval]:
    """Held-out scores, newest first, each with the training reward beside it."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await service.list_evals(session, model.id, benchmark, cursor, limit)


@router.post("/v2/models/{model_id}/evals", status_code=201)
async def add_eval(context: ContextDep, caller: CallerDep, model_id: str, body: EvalRequest) -> Eval:
    """Keep a held-out score from any harness."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await service.add_eval(session, caller, model, body)


@router.delete("/v2/models/{model_id}/evals/{eval_id}")
async def remove_eval(context: ContextDep, caller: CallerDep, model_id: str, eval_id: UUID) -> Eval:
    """Forget a score that was posted by mistake."""
    async with context.database.session() as session:
        model = await get_callers_model(session, caller, model_id)
        return await service.remove_eval(session, caller, model, eval_id)


@router.post("/v2/jobs/{job_id}/evaluation")
async def mark_job(context: ContextDep, caller: CallerDep, job_id: UUID, body: EvaluationMark) -> EvaluationJob:
    """Say that a job is an evaluation (scored, not trained on), or that it is none."""
    async with context.database.session() as session:
        return await service.mark_job(session, caller, job_id, body)
