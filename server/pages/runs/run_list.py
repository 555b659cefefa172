"""`/runs`: the team's managed training as a table that is filtered and sorted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.runs.run_rows import PAGE, STATES, RunFilterDep, run_rows, run_sorting
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep

router = PageRouter()


@router.get("/runs")
async def runs(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    said: RunFilterDep,
    number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
) -> Response:
    """A page of the table."""
    sort = run_sorting(said)
    async with context.database.session() as session:
        found, total = await run_rows(session, visitor.caller, said, number)
    shown: dict[str, Any] = {"runs": found, "said": said, "sort": sort, "states": STATES}
    num_pages = max(1, -(-total // PAGE))
    return page(request, "runs/list.html", visitor, number=number, num_pages=num_pages, total=total, **shown)
