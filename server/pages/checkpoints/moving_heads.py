"""Moving a head in the browser: a page that says what it does, and the form on it."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog import heads
from server.http.context import Context, ContextDep
from server.pages.checkpoints.lineage import read_lineage
from server.pages.shared.forms import submitted
from server.pages.shared.model_states import model_states
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork, find_model
from store.planes.registration import takes_requests
from store.tables import ModelRow, SamplerRow
from wire.errors import Conflict, HeadwayError, NotFound

BASE_WEIGHTS = "base"

router = PageRouter()


@router.get("/models/{model_id}/head")
async def confirm(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, to: str) -> Response:
    """What will happen when the head moves there."""
    visitor.caller.require("train")
    return await _ask(context, request, visitor, model_id, to)


@router.post("/forms/models/{model_id}/head")
async def move(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Move it, unless it moved since the question was asked. A refusal is shown on the page of the question."""
    fields = await submitted(request, visitor)
    target = fields.get("to", "")
    try:
        async with context.database.session() as session:
            model, _ = await find_model(session, visitor, model_id)
        if fields.get("head") != _head_name(model):
            raise Conflict("the head has moved since you opened this page; this is how things stand now")
        await heads.set_head(context.heads, visitor.caller, model_id, None if target == BASE_WEIGHTS else target)
    except HeadwayError as error:
        if error.status == 404:
            raise
        return await _ask(context, request, visitor, model_id, target, error)
    return RedirectResponse(f"/models/{model.id}?tab=checkpoints", 303)


async def _ask(
    context: Context, request: Request, visitor: Visitor, model_id: str, to: str, error: HeadwayError | None = None
) -> Response:
    async with context.database.session() as session:
        values = await _consequences(session, visitor, model_id, to)
    return page(request, "checkpoints/move_head.html", visitor, error=error, **values)


async def _consequences(session: AsyncSession, visitor: Visitor, model_id: str, to: str) -> dict[str, Any]:
    model, base = await find_fork(session, visitor, model_id)
    lineage = await read_lineage(session, model)
    target = None if to == BASE_WEIGHTS else lineage.find(to)
    if target is None and to != BASE_WEIGHTS:
        raise NotFound(f"model {model.slug!r} has no checkpoint {to!r}")
    states = await model_states(session, [model], {base.id})
    samplers = select(func.count()).where(SamplerRow.base_id == base.id, takes_requests())
    to_target = {node.id for node in lineage.path_to(target)}
    return {
        "model": model,
        "base": base,
        "lineage": lineage,
        "target": target,
        "to": target.name if target else BASE_WEIGHTS,
        "head": _head_name(model),
        "state": states[model.id],
        "left": [node for node in lineage.path if node.id not in to_target],
        "num_samplers": await session.scalar(samplers),
    }


def _head_name(model: ModelRow) -> str:
    """The head as the form repeats it: with its version, for it may have left and come back."""
    return f"{model.head_checkpoint_id or BASE_WEIGHTS}@{model.head_version}"
