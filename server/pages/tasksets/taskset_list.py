"""`/tasksets`: the team's tasksets, newest first."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.shared.filters import Cursor
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.tasksets.service import list_tasksets

PAGE = 50

router = PageRouter()


@router.get("/tasksets")
async def tasksets(context: ContextDep, request: Request, visitor: VisitorDep, cursor: Cursor = None) -> Response:
    """A page of the list."""
    async with context.database.session() as session:
        found = await list_tasksets(session, visitor.caller, cursor, PAGE)
    return page(request, "tasksets/list.html", visitor, tasksets=found.items, cursor=cursor, older=found.next_cursor)
