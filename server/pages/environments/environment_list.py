"""`/environments`: those that the team may run, newest first."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.environments.registry import newest_states, page_of_environments
from server.http.context import ContextDep
from server.pages.shared.filters import Cursor
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep

PAGE = 50

router = PageRouter()


@router.get("/environments")
async def environments(context: ContextDep, request: Request, visitor: VisitorDep, cursor: Cursor = None) -> Response:
    """A page of the list."""
    async with context.database.session() as session:
        found, older = await page_of_environments(session, visitor.caller, cursor, PAGE)
        newest = await newest_states(session, [row.id for row, _ in found])
    listed = [(row, serving, newest.get(row.id)) for row, serving in found]
    return page(request, "environments/list.html", visitor, environments=listed, cursor=cursor, older=older)
