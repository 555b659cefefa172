"""Pausing and resuming a model in the browser: pages that say what it does, and the forms on them."""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.audit.recording import actor_of
from server.catalog import pausing
from server.catalog.types import PauseRequest
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.model_states import model_states
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork
from wire.errors import HeadwayError

router = PageRouter()

Verb = Literal["pause", "resume"]


@router.get("/models/{model_id}/pause")
async def ask_to_pause(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """What a pause does, and the reason for it."""
    return await _ask(context, request, visitor, model_id, "pause")


@router.get("/models/{model_id}/resume")
async def ask_to_resume(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """What resuming does, and why the model is paused."""
    return await _ask(context, request, visitor, model_id, "resume")


@router.post("/forms/models/{model_id}/pause")
async def pause(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Pause it. An operator may keep resuming to operators."""
    fields = await submitted(request, visitor)
    by_operator = visitor.caller.is_admin and "operators_only" in fields
    try:
        reason = as_request(PauseRequest, {"reason": fields.get("reason", "")}).reason
        async with context.database.session() as session:
            model, _ = await find_fork(session, visitor, model_id)
            authority = "admin" if by_operator else "team"
            await pausing.pause(session, model.id, reason, actor_of(visitor.caller), authority)
    except HeadwayError as error:
        return await _ask(context, request, visitor, model_id, "pause", error, fields.get("reason", ""))
    return RedirectResponse(f"/models/{model.id}", 303)


@router.post("/forms/models/{model_id}/resume")
async def resume(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Resume it; what an operator paused, only as an operator."""
    await submitted(request, visitor)
    try:
        async with context.database.session() as session:
            model, _ = await find_fork(session, visitor, model_id)
            authority = "admin" if visitor.caller.is_admin else "team"
            await pausing.resume(session, model.id, actor_of(visitor.caller), authority)
    except HeadwayError as error:
        return await _ask(context, request, visitor, model_id, "resume", error)
    return RedirectResponse(f"/models/{model.id}", 303)


async def _ask(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    verb: Verb,
    error: HeadwayError | None = None,
    reason: str = "",
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, base = await find_fork(session, visitor, model_id)
        states = await model_states(session, [model], {base.id})
    state = states[model.id]
    return page(request, f"models/{verb}.html", visitor, error=error, model=model, state=state, reason=reason)
