"""Rollouts as clients report them: enter and exit in any order, any number of times, and telemetry as it comes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.models.repository import as_uuid
from server.storable import storable_json
from store.tables import TraceRow
from wire.errors import NotFound
from wire.reports import Trace, TraceEntered, TraceExited


async def enter(session: AsyncSession, team_id: UUID, trace_id: UUID, report: TraceEntered) -> None:
    """The rollout began."""
    values = report.model_dump(exclude=set(report.model_extra or {}))
    values["job_id"] = as_uuid(report.job_id) if report.job_id else None
    await _upsert(session, team_id, trace_id, report.model_extra, entered_at=func.clock_timestamp(), **values)


async def exit_(session: AsyncSession, team_id: UUID, trace_id: UUID, report: TraceExited) -> None:
    """The rollout ended."""
    values = report.model_dump(exclude=set(report.model_extra or {}))
    await _upsert(session, team_id, trace_id, report.model_extra, exited_at=func.clock_timestamp(), **values)


async def get_trace(session: AsyncSession, team_id: UUID, trace_id: UUID) -> Trace:
    """One rollout. Raises NotFound."""
    row = await session.get(TraceRow, (team_id, trace_id))
    if row is None:
        raise NotFound(f"there is no trace {trace_id}")
    return describe(row)


def describe(row: TraceRow) -> Trace:
    """A rollout as clients read it."""
    return Trace(
        id=str(row.id),
        job_id=str(row.job_id) if row.job_id else None,
        status=row.status or "running",
        reward=row.reward,
        error=row.error,
        stop_reason=row.stop_reason,
        evaluation_result=row.evaluation_result,
        created_at=row.created_at,
    )


async def _upsert(
    session: AsyncSession, team_id: UUID, trace_id: UUID, extra: dict[str, Any] | None, **values: Any
) -> None:
    """What a report leaves out stays as it was."""
    said = {name: storable_json(value) for name, value in values.items() if value is not None}
    if extra:
        said["extra"] = storable_json(extra)
    row = insert(TraceRow).values(team_id=team_id, id=trace_id, **said)
    if extra:
        said["extra"] = func.coalesce(TraceRow.extra, literal({}, JSONB)).concat(row.excluded.extra)
    await session.execute(row.on_conflict_do_update(index_elements=["team_id", "id"], set_=said))


async def traces_of(session: AsyncSession, team_id: UUID, job_id: UUID, limit: int) -> tuple[list[Trace], int]:
    """A job's rollouts, newest first, and how many there are."""
    mine = TraceRow.team_id == team_id, TraceRow.job_id == job_id
    rows = await session.scalars(select(TraceRow).where(*mine).order_by(TraceRow.created_at.desc()).limit(limit))
    total = await session.scalar(select(func.count()).select_from(TraceRow).where(*mine))
    return [describe(row) for row in rows], total or 0
