"""Ends rollouts that are placed, by their traces: in the queue at once, on runners as soon as these say so."""

from __future__ import annotations

from uuid import UUID

from store.database import AsyncConnection
from store.notify import PLACEMENT_CHANGED

# Placements are locked before traces, as at their end.
_CANCEL = """
    with live as (
        select p.id from placements p join hosted_rollouts h on h.placement_id = p.id
        where h.team_id = %(team_id)s and p.state <> 'ended'
            and (%(trace_ids)s::uuid[] is null or h.trace_id = any(%(trace_ids)s))
            and (%(job_id)s::uuid is null or h.job_id = %(job_id)s)
        order by p.id for update of p
    ), changed as (
        update placements p set
            cancelled_at = coalesce(p.cancelled_at, clock_timestamp()),
            state = case when p.state = 'queued' then 'ended' else p.state end,
            outcome = case when p.state = 'queued' then 'cancelled' end,
            ended_at = case when p.state = 'queued' then clock_timestamp() end
        from live where p.id = live.id
        returning p.id
    )
    select pg_notify(%(changed)s, replace(id::text, '-', '')) from changed
"""

_TOMBSTONE = """
    insert into traces (team_id, id, job_id, status, exited_at)
    values (%(team_id)s, %(trace_id)s, %(job_id)s, 'cancelled', clock_timestamp())
    on conflict (team_id, id) do nothing
"""


async def cancel_placed_rollouts(
    connection: AsyncConnection, team_id: UUID, *, trace_ids: list[UUID] | None = None, job_id: UUID | None = None
) -> int:
    """Those of these traces and this job, by default all of the team's; how many had not ended. Their traces are for
    `store.rollouts.cancel_traces`, in the same transaction."""
    asked = {"team_id": team_id, "trace_ids": trace_ids, "job_id": job_id, "changed": PLACEMENT_CHANGED}
    return (await connection.execute(_CANCEL, asked)).rowcount


async def leave_tombstone(connection: AsyncConnection, team_id: UUID, trace_id: UUID, job_id: UUID | None) -> None:
    """A trace that is cancelled before it was heard of: a submission that comes later starts nothing."""
    await connection.execute(_TOMBSTONE, {"team_id": team_id, "trace_id": trace_id, "job_id": job_id})
