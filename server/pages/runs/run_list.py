"""`/runs`: the team's managed training, newest first."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.shared.filters import Cursor
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRoute
from server.pages.shared.signing_in import VisitorDep
from server.runs.reading import list_runs

PAGE = 50

router = APIRouter(route_class=PageRoute)


@router.get("/runs")
async def runs(context: ContextDep, request: Request, visitor: VisitorDep, cursor: Cursor = None) -> Response:
    """A page of the list."""
    async with context.database.session() as session:
        found = await list_runs(session, visitor.caller, cursor=cursor, limit=PAGE)
    return page(request, "runs/list.html", visitor, runs=found.items, older=found.next_cursor, cursor=cursor)
