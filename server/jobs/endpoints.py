"""Reports about jobs."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from server.auth.dependencies import CallerDep, ReporterDep
from server.context import ContextDep
from server.jobs import service
from wire.reports import JobEntered, JobPage, TracePage

router = APIRouter(tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("/v2/trace/job/{job_id}/enter")
async def enter(context: ContextDep, caller: ReporterDep, job_id: UUID, body: JobEntered) -> dict[str, str]:
    """A job begins."""
    async with context.database.session() as session:
        await service.enter(session, caller.team_id, job_id, body)
    return {"job_id": str(job_id)}


@router.get("/v2/jobs")
async def list_jobs(context: ContextDep, caller: CallerDep, limit: Limit = 20) -> JobPage:
    """The team's jobs, newest first."""
    async with context.database.session() as session:
        return await service.list_jobs(session, caller.team_id, limit)


@router.get("/v2/jobs/{job_id}/traces")
async def list_traces(context: ContextDep, caller: CallerDep, job_id: UUID, limit: Limit = 20) -> TracePage:
    """A job's rollouts, newest first."""
    async with context.database.session() as session:
        return await service.list_traces(session, caller.team_id, job_id, limit)
