"""Runs over tasksets. There is no report of a job's end: its status follows from its rollouts."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.lines import GrowingLine
from server.audit.recording import actor_of
from server.catalog.repository import as_uuid
from server.hosted_rollouts.cancelling import cancel_all as cancel_rollouts_of
from server.principals.callers import Caller
from server.rollouts.service import describe
from server.rollouts.types import (
    CancelledJob,
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
from server.rollouts.visibility import models_of
from server.values.sanitizing import storable_text
from store.database import AsyncConnection, AsyncDatabase
from store.placements.cancelling import cancel_placed_rollouts
from store.rollouts import (
    JobFacts,
    JobFilter,
    TraceFilter,
    count_jobs,
    count_traces,
    delete_job,
    find_job,
    list_jobs,
    list_traces,
    pin_job,
)
from store.tables import JobRow
from wire.errors import NotFound


async def enter(session: AsyncSession, team_id: UUID, job_id: UUID, report: JobEntered) -> None:
    """The job began, or says so again."""
    said = {
        "name": storable_text(report.name) if report.name is not None else None,
        "group_size": report.group,
        "taskset_id": storable_text(report.taskset_id) if report.taskset_id is not None else None,
    }
    said = {name: value for name, value in said.items() if value is not None}
    row = insert(JobRow).values(team_id=team_id, id=job_id, **said)
    if said:
        row = row.on_conflict_do_update(index_elements=["team_id", "id"], set_=said)
    else:
        row = row.on_conflict_do_nothing()
    await session.execute(row)


async def page_of_jobs(database: AsyncDatabase, caller: Caller, limit: int, cursor: str | None) -> JobPage:
    """The team's jobs that the key sees, newest first. Raises InvalidRequest for a cursor that is none."""
    wanted = JobFilter(model_ids=models_of(caller))
    async with database.connection() as connection:
        jobs, next_cursor = await list_jobs(connection, caller.team_id, limit=limit, cursor=cursor, wanted=wanted)
        total = await count_jobs(connection, caller.team_id, wanted.model_ids)
    return JobPage(items=[_describe(job) for job in jobs], total=total, next_cursor=next_cursor)


async def get_job(database: AsyncDatabase, team_id: UUID, job_id: UUID) -> Job:
    """One job. Raises NotFound."""
    async with database.connection() as connection:
        return _describe(await _found_job(connection, team_id, job_id))


async def page_of_traces(
    database: AsyncDatabase, team_id: UUID, job_id: UUID, limit: int, cursor: str | None
) -> TracePage:
    """A job's rollouts, newest first. Raises NotFound, and InvalidRequest for a cursor that is none."""
    wanted = TraceFilter(job_id=job_id)
    async with database.connection() as connection:
        await _found_job(connection, team_id, job_id)
        page = await list_traces(connection, team_id, wanted, limit=limit, cursor=cursor)
        total = await count_traces(connection, team_id, wanted)
    return TracePage(items=[describe(trace) for trace in page.traces], total=total, next_cursor=page.next_cursor)


async def cancel_job(database: AsyncDatabase, team_id: UUID, request: CancelRequest) -> JobCancelled:
    """Cancel the running rollouts of a job."""
    job_id = as_uuid(request.job_id or "")
    if job_id is None:
        return JobCancelled(cancelled=0)
    return JobCancelled(cancelled=len(await cancel_rollouts_of(database, team_id, job_id)))


async def cancel_all(database: AsyncDatabase, team_id: UUID) -> JobsCancelled:
    """Cancel all running rollouts of the team."""
    cancelled = await cancel_rollouts_of(database, team_id)
    jobs = Counter(job_id for job_id in cancelled if job_id is not None)
    details = [CancelledJob(job_id=str(job_id), cancelled=count) for job_id, count in jobs.items()]
    return JobsCancelled(jobs_cancelled=len(jobs), total_tasks_cancelled=len(cancelled), job_details=details)


async def delete(database: AsyncDatabase, caller: Caller, job_id: UUID) -> Deleted:
    """Delete a job, its rollouts, and all that was recorded of them. Raises NotFound."""
    line = GrowingLine(actor_of(caller), "delete_job", team_id=caller.team_id, subject_id=job_id)

    async def on_change(connection: AsyncConnection, num_traces: int) -> None:
        await line.write(connection, traces_deleted=num_traces)

    async with database.connection() as connection:
        await cancel_placed_rollouts(connection, caller.team_id, job_id=job_id)
        was_there, num_traces = await delete_job(connection, caller.team_id, job_id, on_change)
    if not was_there:
        raise _no_such_job(job_id)
    return Deleted(traces_deleted=num_traces)


async def pin(database: AsyncDatabase, team_id: UUID, job_id: UUID, pinned: bool) -> Pin:
    """Keep a job with its rollouts, or leave them to the retention policy again. Raises NotFound."""
    async with database.connection() as connection:
        if not await pin_job(connection, team_id, job_id, pinned=pinned):
            raise _no_such_job(job_id)
    return Pin(pinned=pinned)


async def _found_job(connection: AsyncConnection, team_id: UUID, job_id: UUID) -> JobFacts:
    job = await find_job(connection, team_id, job_id)
    if job is None:
        raise _no_such_job(job_id)
    return job


def _no_such_job(job_id: UUID) -> NotFound:
    return NotFound(f"there is no job {job_id}")


def _describe(job: JobFacts) -> Job:
    return Job(
        id=str(job.id),
        name=job.name,
        taskset_id=job.taskset_id,
        taskset_name=job.taskset_name,
        group_size=job.group_size,
        status=job.status,
        pinned=job.pinned_at is not None,
        created_at=job.created_at,
    )
