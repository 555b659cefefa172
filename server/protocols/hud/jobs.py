"""Jobs: runs over tasksets."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query

from server.catalog.repository import as_uuid
from server.http.authentication import CallerDep, ReporterDep
from server.http.context import ContextDep
from server.jobs import service
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.shared.visibility import ReportedJob, SeenJob
from server.rollouts.types import (
    CancelRequest,
    Deleted,
    Job,
    JobCancelled,
    JobEntered,
    JobPage,
    JobsCancelled,
    Pin,
    TracePage,
)
from server.rollouts.visibility import require_job

router = HudRouter(tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=256)]


@router.post("/v2/trace/job/{job_id}/enter", dependencies=[ReportedJob])
async def enter(context: ContextDep, caller: ReporterDep, job_id: UUID, body: JobEntered) -> dict[str, str]:
    """A job begins."""
    async with context.database.session() as session:
        await service.enter(session, caller.team_id, job_id, body)
    return {"job_id": str(job_id)}


@router.get("/v2/jobs")
async def list_jobs(context: ContextDep, caller: CallerDep, limit: Limit = 20, cursor: Cursor = None) -> JobPage:
    """The team's jobs, newest first."""
    return await service.page_of_jobs(context.database, caller, limit, cursor)


@router.get("/v2/jobs/{job_id}", dependencies=[SeenJob])
async def get_job(context: ContextDep, caller: CallerDep, job_id: UUID) -> Job:
    """One job."""
    return await service.get_job(context.database, caller.team_id, job_id)


@router.get("/v2/jobs/{job_id}/traces", dependencies=[SeenJob])
async def list_traces(
    context: ContextDep, caller: CallerDep, job_id: UUID, limit: Limit = 20, cursor: Cursor = None
) -> TracePage:
    """A job's rollouts, newest first."""
    return await service.page_of_traces(context.database, caller.team_id, job_id, limit, cursor)


@router.delete("/v2/jobs/{job_id}", dependencies=[SeenJob])
async def delete_job(context: ContextDep, caller: CallerDep, job_id: UUID) -> Deleted:
    """Delete a job with its rollouts and all that was recorded of them."""
    return await service.delete(context.database, caller, job_id)


@router.put("/v2/jobs/{job_id}/pin", dependencies=[SeenJob])
async def pin_job(context: ContextDep, caller: CallerDep, job_id: UUID) -> Pin:
    """Keep a job with its rollouts, whatever the retention policy says."""
    return await service.pin(context.database, caller.team_id, job_id, True)


@router.delete("/v2/jobs/{job_id}/pin", dependencies=[SeenJob])
async def unpin_job(context: ContextDep, caller: CallerDep, job_id: UUID) -> Pin:
    """Leave a job to the retention policy again."""
    return await service.pin(context.database, caller.team_id, job_id, False)


@router.post("/v2/rollouts/cancel_job")
async def cancel_job(context: ContextDep, caller: CallerDep, body: CancelRequest) -> JobCancelled:
    """Cancel the running rollouts of a job: see the cancellation of one."""
    if (job_id := as_uuid(body.job_id or "")) is not None:
        await require_job(context.database, caller, job_id)
    return await service.cancel_job(context.database, caller.team_id, body)


@router.post("/v2/rollouts/cancel_user_jobs")
async def cancel_all(context: ContextDep, caller: CallerDep) -> JobsCancelled:
    """Cancel all running rollouts of the team."""
    caller.require_whole_team("cancel all of the team's rollouts")
    return await service.cancel_all(context.database, caller.team_id)
