"""`/jobs`: the team's runs over tasksets, newest first, and how much their groups had to teach."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.shared.filters import JOB_STATUSES, Cursor, JobFilterDep, wanted_jobs
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.rollouts.visibility import models_of
from store.rollouts import list_jobs, summarise_jobs
from store.rollouts.group_stats import MOST_SUMMARISED

PAGE = 50

router = PageRouter()


@router.get("/jobs")
async def jobs(
    context: ContextDep, request: Request, visitor: VisitorDep, said: JobFilterDep, cursor: Cursor = None
) -> Response:
    """A page of the list."""
    team_id = visitor.caller.team_id
    wanted = replace(wanted_jobs(said), model_ids=models_of(visitor.caller))
    async with context.database.connection() as connection:
        found, older = await list_jobs(connection, team_id, limit=PAGE, cursor=cursor, wanted=wanted)
        summaries = await summarise_jobs(connection, team_id, [job.id for job in found])
    return page(
        request,
        "jobs/list.html",
        visitor,
        jobs=[(job, summaries.get(job.id)) for job in found],
        said=said,
        older=older,
        cursor=cursor,
        statuses=JOB_STATUSES,
        most_summarised=MOST_SUMMARISED,
    )
