"""The name and the tags of a run, set in the browser."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.catalog.repository import as_uuid
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.runs.describing import change_run
from server.runs.reading import get_run
from server.runs.types import RunChange
from wire.errors import InvalidRequest, NotFound

router = PageRouter()


@router.get("/runs/{run_id}/describe")
async def ask(context: ContextDep, request: Request, visitor: VisitorDep, run_id: str) -> Response:
    """The form."""
    visitor.caller.require("train")
    return await _ask(context, request, visitor, run_id)


@router.post("/forms/runs/{run_id}/describe")
async def describe(context: ContextDep, request: Request, visitor: VisitorDep, run_id: str) -> Response:
    """Set both. Tags stand on lines of their own; an empty name is none."""
    fields = await submitted(request, visitor)
    name, lines = fields.get("name", ""), fields.get("tags", "").splitlines()
    sent = {"name": name.strip() or None, "tags": [line for line in lines if line.strip()]}
    try:
        change = as_request(RunChange, sent)
        async with context.database.session() as session:
            run = await change_run(session, visitor.caller, _id(run_id), change)
    except InvalidRequest as error:
        return await _ask(context, request, visitor, run_id, error, fields)
    return RedirectResponse(f"/runs/{run.id}", 303)


async def _ask(
    context: Context,
    request: Request,
    visitor: Visitor,
    run_id: str,
    error: InvalidRequest | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    async with context.database.session() as session:
        run = await get_run(session, visitor.caller, _id(run_id))
    sent = {"name": run.name or "", "tags": "\n".join(run.tags), **(fields or {})}
    return page(request, "runs/describe.html", visitor, error=error, run=run, fields=sent)


def _id(run_id: str) -> UUID:
    found_id = as_uuid(run_id)
    if found_id is None:
        raise NotFound(f"there is no run {run_id[:100]!r}; see /runs")
    return found_id
