"""Pausing, resuming and cancelling a run in the browser."""

from __future__ import annotations

from typing import Literal

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.catalog.repository import as_uuid
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.runs import changing
from server.runs.reading import get_run
from server.runs.types import Run
from wire.errors import HeadwayError, NotFound

router = PageRouter()

Verb = Literal["pause", "resume", "cancel"]


@router.get("/runs/{run_id}/{verb}")
async def ask(context: ContextDep, request: Request, visitor: VisitorDep, run_id: str, verb: Verb) -> Response:
    """What it does."""
    return await _ask(context, request, visitor, run_id, verb)


@router.post("/forms/runs/{run_id}/{verb}")
async def change(context: ContextDep, request: Request, visitor: VisitorDep, run_id: str, verb: Verb) -> Response:
    """Do it."""
    await submitted(request, visitor)
    visitor.caller.require("train")
    try:
        run = await _changed(context, visitor, run_id, verb)
    except HeadwayError as error:
        if isinstance(error, NotFound):
            raise
        return await _ask(context, request, visitor, run_id, verb, error)
    return RedirectResponse(f"/runs/{run.id}", 303)


async def _changed(context: Context, visitor: Visitor, run_id: str, verb: Verb) -> Run:
    found_id = as_uuid(run_id)
    if found_id is None:
        raise NotFound(f"there is no run {run_id[:100]!r}; see /runs")
    if verb == "resume":
        return await changing.resume(context.database, visitor.caller, found_id)
    async with context.database.session() as session:
        return await (changing.pause if verb == "pause" else changing.cancel)(session, visitor.caller, found_id)


async def _ask(
    context: Context, request: Request, visitor: Visitor, run_id: str, verb: Verb, error: HeadwayError | None = None
) -> Response:
    visitor.caller.require("train")
    found_id = as_uuid(run_id)
    if found_id is None:
        raise NotFound(f"there is no run {run_id[:100]!r}; see /runs")
    async with context.database.session() as session:
        run = await get_run(session, visitor.caller, found_id)
    return page(request, "runs/change.html", visitor, error=error, run=run, verb=verb)
