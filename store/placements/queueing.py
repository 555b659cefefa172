"""Placements into the queue, and what somebody asks to end."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from store.notify import PLACEMENT_CHANGED, PLACEMENT_QUEUED, notify_async
from store.tables import PlacementRow


async def enqueue(session: AsyncSession, placement: PlacementRow) -> None:
    """Have a runner take it, as soon as this transaction commits."""
    session.add(placement)
    await session.flush()
    await notify_async(session, PLACEMENT_QUEUED, "")


async def cancel(session: AsyncSession, placement_id: UUID, error: str | None = None) -> bool:
    """End it: in the queue at once; on a runner, which is to stop it, as soon as that one says so. Whether it had not
    ended before. Rollouts: `server.hosted_rollouts.cancelling`, which also ends their traces."""
    row = await session.get(PlacementRow, placement_id, with_for_update=True, populate_existing=True)
    if row is None or row.state == "ended":
        return False
    now = func.clock_timestamp()
    row.cancelled_at, row.error = now, error or row.error
    if row.state == "queued":
        row.state, row.outcome, row.ended_at = "ended", "cancelled", now
    await session.flush()
    await notify_async(session, PLACEMENT_CHANGED, placement_id.hex)
    return True
