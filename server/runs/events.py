"""What happens to a run, numbered, and read by whoever follows it."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.types import RunEvent, RunEvents
from store.notify import RUN_CHANGED, notify_async
from store.tables import RunEventRow, RunRow

Kind = Literal[
    "created", "started", "step", "eval", "warning", "paused", "resumed", "completed", "stopped", "failed", "cancelled"
]
LAST: frozenset[str] = frozenset({"completed", "stopped", "failed", "cancelled"})
"""Kinds after which nothing more happens, unless the run is resumed."""

_MOST_CHARACTERS = 2000


async def add_event(
    session: AsyncSession, run: RunRow, kind: Kind, message: str, data: dict[str, Any] | None = None
) -> None:
    """The run's next event, in the transaction of what it says. Its row must be locked."""
    row = RunEventRow(run_id=run.id, number=run.next_event, kind=kind, message=message[:_MOST_CHARACTERS], data=data)
    run.next_event += 1
    session.add(row)
    await session.flush()
    await notify_async(session, RUN_CHANGED, run.id.hex)


async def list_events(session: AsyncSession, run_id: UUID, after: int, limit: int) -> RunEvents:
    """Events with a higher number than `after`, in order."""
    query = select(RunEventRow).where(RunEventRow.run_id == run_id, RunEventRow.number > after)
    rows = (await session.scalars(query.order_by(RunEventRow.number).limit(limit))).all()
    return RunEvents(items=[describe_event(row) for row in rows], next_after=rows[-1].number if rows else after)


async def newest_events(session: AsyncSession, run_id: UUID, before: int | None, limit: int) -> list[RunEvent]:
    """Events with a lower number than `before` (None: all), newest first."""
    query = select(RunEventRow).where(RunEventRow.run_id == run_id)
    if before is not None:
        query = query.where(RunEventRow.number < before)
    rows = await session.scalars(query.order_by(RunEventRow.number.desc()).limit(limit))
    return [describe_event(row) for row in rows]


def describe_event(row: RunEventRow) -> RunEvent:
    """As clients see it."""
    return RunEvent(seq=row.number, at=row.at, kind=row.kind, message=row.message, data=row.data)
