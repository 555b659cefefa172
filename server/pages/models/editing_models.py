"""Renaming, describing and tagging a model in the browser: one page with a form."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.catalog.changing import change_model
from server.catalog.types import ModelChange
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork
from wire.errors import HeadwayError, NotFound

router = PageRouter()

_FIELDS = ("name", "description", "tags")


@router.get("/models/{model_id}/edit")
async def ask(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """What it is called, and what is written about it."""
    return await _ask(context, request, visitor, model_id)


@router.post("/forms/models/{model_id}/edit")
async def edit(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Change it."""
    fields = await submitted(request, visitor)
    visitor.caller.require("train")
    written = {name: fields.get(name, "").strip() for name in _FIELDS}
    tags = [tag.strip() for tag in written["tags"].split(",") if tag.strip()]
    asked = {"name": written["name"], "description": written["description"] or None, "tags": tags}
    try:
        change = as_request(ModelChange, asked)
        async with context.database.session() as session:
            model = await change_model(session, visitor.caller, model_id, change)
    except NotFound:
        raise
    except HeadwayError as error:
        return await _ask(context, request, visitor, model_id, error, written)
    return RedirectResponse(f"/models/{model.id}", 303)


async def _ask(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    error: HeadwayError | None = None,
    written: dict[str, str] | None = None,
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
    known = {"name": model.slug, "description": model.description or "", "tags": ", ".join(model.tags)}
    return page(request, "models/edit.html", visitor, error=error, model=model, written=written or known)
