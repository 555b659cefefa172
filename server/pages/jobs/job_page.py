"""`/jobs/<id>`: what the groups of a job came to, and its rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from fastapi import Query, Request
from fastapi.responses import Response

from server.catalog.repository import as_uuid
from server.http.context import ContextDep
from server.pages.jobs.strips import strip
from server.pages.rollouts.rollout_rows import rollout_rows
from server.pages.shared.filters import TRACE_STATUSES, Cursor, TraceFilterDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.rollouts.visibility import require_job
from store.rollouts import Verdict, find_job, list_groups
from wire.errors import NotFound

PAGE = 50

router = PageRouter()

Tab = Literal["groups", "rollouts"]
VERDICTS: tuple[tuple[str, str, str], ...] = (
    ("teaches", "teach", "Rewards differ within the group: it moves the policy."),
    ("all_pass", "all pass", "Every rollout got at least 1: nothing left to learn from; make it harder."),
    ("all_fail", "all fail", "No rollout got more than 0: nothing to prefer; make it easier, or try more often."),
    ("all_equal", "all equal", "One reward for all of them: nothing to prefer."),
    ("ungraded", "no reward", "No rollout completed with a reward."),
    ("running", "running", "A rollout of the group still runs."),
)
"""Key, word and meaning."""
assert {key for key, _, _ in VERDICTS} == set(get_args(Verdict))


@router.get("/jobs/{job_id}")
async def job_page(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    job_id: str,
    said: TraceFilterDep,
    tab: Tab = "groups",
    verdict: Annotated[Verdict | Literal[""] | None, Query()] = None,
    cursor: Cursor = None,
) -> Response:
    """One job; the id with dashes or without."""
    team_id, found_id = visitor.caller.team_id, as_uuid(job_id)
    if found_id:
        await require_job(context.database, visitor.caller, found_id)
    async with context.database.connection() as connection:
        job = await find_job(connection, team_id, found_id) if found_id else None
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        values: dict[str, Any] = {"job": job, "tab": tab, "said": said, "cursor": cursor, "verdicts": VERDICTS}
        values["taskset_id"] = as_uuid(job.taskset_id) if job.taskset_id else None
        limit = PAGE if tab == "groups" else 1
        cursor_of_groups = cursor if tab == "groups" else None
        groups = await list_groups(
            connection, team_id, job.id, limit=limit, verdict=verdict or None, cursor=cursor_of_groups
        )
    values |= {"counts": groups.counts, "num_groups": sum(groups.counts.values()), "verdict": verdict or None}
    if tab == "rollouts":
        rows = await rollout_rows(context, visitor.caller, said, cursor, job.id)
        return page(request, "jobs/rollouts.html", visitor, rows=rows, statuses=TRACE_STATUSES, **values)
    shown = [(group, strip(group.rewards or [])) for group in groups.groups]
    return page(request, "jobs/groups.html", visitor, groups=shown, older=groups.next_cursor, **values)
