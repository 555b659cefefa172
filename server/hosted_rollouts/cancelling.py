"""Cancels rollouts, whoever carries them out: what their traces say at once and, where runners do, for good."""

from __future__ import annotations

from uuid import UUID

from store.database import AsyncDatabase
from store.placements.cancelling import cancel_placed_rollouts, leave_tombstone
from store.rollouts import cancel_traces


async def cancel_rollout(database: AsyncDatabase, team_id: UUID, trace_id: UUID, job_id: UUID | None) -> bool:
    """Whether it was running. One that nobody has heard of is cancelled before it is submitted."""
    async with database.connection() as connection, connection.transaction():
        await cancel_placed_rollouts(connection, team_id, trace_ids=[trace_id], job_id=job_id)
        cancelled = await cancel_traces(connection, team_id, trace_id=trace_id, job_id=job_id)
        await leave_tombstone(connection, team_id, trace_id, job_id)
    return bool(cancelled)


async def cancel_all(database: AsyncDatabase, team_id: UUID, job_id: UUID | None = None) -> list[UUID | None]:
    """All of a job, or of the team, that are running; the job of each."""
    async with database.connection() as connection, connection.transaction():
        await cancel_placed_rollouts(connection, team_id, job_id=job_id)
        return await cancel_traces(connection, team_id, job_id=job_id)


async def cancel_rollouts(database: AsyncDatabase, team_id: UUID, trace_ids: list[UUID]) -> int:
    """Cancel the rollouts of these traces that are placed here; how many had not ended."""
    async with database.connection() as connection, connection.transaction():
        stopped = await cancel_placed_rollouts(connection, team_id, trace_ids=trace_ids)
        for trace_id in sorted(trace_ids):
            await cancel_traces(connection, team_id, trace_id=trace_id)
    return stopped
