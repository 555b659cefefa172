"""Runs over tasksets. There is no report of a job's end: its status follows from its rollouts."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.storable import storable_text
from server.traces.service import traces_of
from store.tables import JobRow, TraceRow
from wire.errors import NotFound
from wire.reports import Job, JobEntered, JobPage, TracePage


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


async def list_jobs(session: AsyncSession, team_id: UUID, limit: int) -> JobPage:
    """The team's jobs, newest first."""
    all_ended = (  # NULL without any rollout
        select(func.bool_and(TraceRow.status.is_not(None)))
        .where(TraceRow.team_id == JobRow.team_id, TraceRow.job_id == JobRow.id)
        .scalar_subquery()
    )
    query = select(JobRow, all_ended).where(JobRow.team_id == team_id).order_by(JobRow.created_at.desc())
    rows = (await session.execute(query.limit(limit))).all()
    total = await session.scalar(select(func.count()).select_from(JobRow).where(JobRow.team_id == team_id))
    items = [
        Job(id=str(job.id), name=job.name, status="completed" if ended else "running", created_at=job.created_at)
        for job, ended in rows
    ]
    return JobPage(items=items, total=total or 0)


async def list_traces(session: AsyncSession, team_id: UUID, job_id: UUID, limit: int) -> TracePage:
    """A job's rollouts, newest first. Raises NotFound."""
    if await session.get(JobRow, (team_id, job_id)) is None:
        raise NotFound(f"there is no job {job_id}")
    items, total = await traces_of(session, team_id, job_id, limit)
    return TracePage(items=items, total=total)
