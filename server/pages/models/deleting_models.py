"""Deleting a model, or one of its checkpoints, in the browser: a page that counts what goes, and the form on it."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.audit.recording import actor_of
from server.catalog import service
from server.catalog.changing import own_model
from server.catalog.contents import contents_of
from server.catalog.deleting import delete_model
from server.catalog.deleting_checkpoints import delete_checkpoint
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork
from server.values.whole_numbers import whole_number
from wire.errors import Conflict, HeadwayError, NotFound

router = PageRouter()


@router.get("/models/{model_id}/delete")
async def ask(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """What goes with the model, and what stays."""
    return await _ask(context, request, visitor, model_id)


@router.post("/forms/models/{model_id}/delete")
async def delete(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Delete it, if its name was typed, and it has as many checkpoints as the page said."""
    fields = await submitted(request, visitor)
    visitor.caller.require("train")
    counted = fields.get("checkpoints", "")
    try:
        async with context.database.session() as session:
            model = await own_model(session, visitor.caller, model_id)
            if fields.get("name", "").strip() != model.slug:
                raise Conflict(f"type the model's name, {model.slug}, to delete it")
            await delete_model(session, actor_of(visitor.caller), model, whole_number(counted))
    except NotFound:
        raise
    except HeadwayError as error:
        return await _ask(context, request, visitor, model_id, error)
    return RedirectResponse("/", 303)


@router.get("/models/{model_id}/checkpoints/{checkpoint}/delete")
async def ask_about_checkpoint(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, checkpoint: str
) -> Response:
    """What deleting a checkpoint does."""
    return await _ask_about_checkpoint(context, request, visitor, model_id, checkpoint)


@router.post("/forms/models/{model_id}/checkpoints/{checkpoint}/delete")
async def delete_one(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, checkpoint: str
) -> Response:
    """Delete its files."""
    await submitted(request, visitor)
    visitor.caller.require("train")
    try:
        async with context.database.session() as session:
            done = await delete_checkpoint(session, visitor.caller, model_id, checkpoint)
    except NotFound:
        raise
    except HeadwayError as error:
        return await _ask_about_checkpoint(context, request, visitor, model_id, checkpoint, error)
    return RedirectResponse(f"/models/{model_id}?tab=checkpoints&node={done.name}", 303)


async def _ask(
    context: Context, request: Request, visitor: Visitor, model_id: str, error: HeadwayError | None = None
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
        found = await contents_of(session, model)
    return page(request, "models/delete.html", visitor, error=error, model=model, found=found)


async def _ask_about_checkpoint(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    checkpoint: str,
    error: HeadwayError | None = None,
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
        node = await service.get_node(session, model, checkpoint)
    return page(request, "models/delete_checkpoint.html", visitor, error=error, model=model, node=node)
