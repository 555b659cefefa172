"""`/traces`: the team's rollouts, of all jobs and of none, by what they came to."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.rollouts.rollout_rows import rollout_rows
from server.pages.shared.filters import TRACE_STATUSES, Cursor, TraceFilterDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep

router = PageRouter()


@router.get("/traces")
async def traces(
    context: ContextDep, request: Request, visitor: VisitorDep, said: TraceFilterDep, cursor: Cursor = None
) -> Response:
    """A page of the list."""
    rows = await rollout_rows(context, visitor.caller, said, cursor)
    return page(request, "rollouts/list.html", visitor, rows=rows, said=said, cursor=cursor, statuses=TRACE_STATUSES)
