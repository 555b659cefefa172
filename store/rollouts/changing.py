"""Traces and jobs are closed, cancelled, pinned and deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from store.database import AsyncConnection, Database

OnChange = Callable[[AsyncConnection, int], Awaitable[None]]
"""Writes down, in the transaction of the connection, how many went."""

# Many traces are locked in the order in which recording locks them; in another, each could wait for the other.
_CLOSE = """
    with silent as (
        select team_id, id from traces
        where status is null and timed_out_at is null
            and last_activity_at < clock_timestamp() - make_interval(secs => %(silent_s)s)
            and not exists (
                select from hosted_rollouts h join placements p on p.id = h.placement_id
                where h.team_id = traces.team_id and h.trace_id = traces.id and p.state <> 'ended'
            )
        order by team_id, id for update
    )
    update traces t set timed_out_at = clock_timestamp() from silent
    where t.team_id = silent.team_id and t.id = silent.id
"""
_CANCEL = """
    with running as (
        select team_id, id from traces
        where team_id = %(team_id)s and status is null and timed_out_at is null
            and (%(trace_id)s::uuid is null or id = %(trace_id)s) and (%(job_id)s::uuid is null or job_id = %(job_id)s)
        order by team_id, id for update
    )
    update traces t set status = 'cancelled', exited_at = clock_timestamp(), last_activity_at = clock_timestamp()
    from running where t.team_id = running.team_id and t.id = running.id
    returning t.job_id
"""
_PIN_TRACE = """
    update traces set pinned_at = case when %(pinned)s then coalesce(pinned_at, clock_timestamp()) end
    where team_id = %(team_id)s and id = %(id)s
"""
_PIN_JOB = """
    update jobs set pinned_at = case when %(pinned)s then coalesce(pinned_at, clock_timestamp()) end
    where team_id = %(team_id)s and id = %(id)s
"""
_DELETE_TRACE = "delete from traces where team_id = %(team_id)s and id = %(id)s"
_DELETE_TRACES = """
    with going as (
        select team_id, id from traces where team_id = %(team_id)s and job_id = %(id)s
        order by team_id, id limit 1000 for update
    )
    delete from traces t using going where t.team_id = going.team_id and t.id = going.id
"""
_DELETE_JOB = "delete from jobs where team_id = %(team_id)s and id = %(id)s"


def close_silent_traces(database: Database, silent_s: float) -> int:
    """Close running traces in which nothing has happened for so long; how many. An exit that comes later counts. Those
    that runners carry out have an end of their own."""
    with database.connection() as connection:
        return connection.execute(_CLOSE, {"silent_s": silent_s}).rowcount


async def cancel_traces(
    connection: AsyncConnection, team_id: UUID, *, trace_id: UUID | None = None, job_id: UUID | None = None
) -> list[UUID | None]:
    """Mark running traces as cancelled, all of the team's by default; the job of each. An exit that comes later counts:
    clients roll out by themselves, and nothing here can stop them."""
    asked = {"team_id": team_id, "trace_id": trace_id, "job_id": job_id}
    return [row.job_id for row in await (await connection.execute(_CANCEL, asked)).fetchall()]


async def pin_trace(connection: AsyncConnection, team_id: UUID, trace_id: UUID, *, pinned: bool) -> bool:
    """Whether there is such a trace."""
    asked = {"team_id": team_id, "id": trace_id, "pinned": pinned}
    return (await connection.execute(_PIN_TRACE, asked)).rowcount > 0


async def pin_job(connection: AsyncConnection, team_id: UUID, job_id: UUID, *, pinned: bool) -> bool:
    """Whether there is such a job. Its traces are kept with it."""
    return (await connection.execute(_PIN_JOB, {"team_id": team_id, "id": job_id, "pinned": pinned})).rowcount > 0


async def delete_trace(connection: AsyncConnection, team_id: UUID, trace_id: UUID) -> bool:
    """Delete a trace, pinned or not, with its samples and spans; whether it was there. Its blobs go with the next
    collection."""
    return (await connection.execute(_DELETE_TRACE, {"team_id": team_id, "id": trace_id})).rowcount > 0


async def delete_job(connection: AsyncConnection, team_id: UUID, job_id: UUID, on_change: OnChange) -> tuple[bool, int]:
    """Delete a job with its traces; whether it was there, and how many traces went. In portions, each a transaction of
    its own, at whose end `on_change` is called with how many went so far: a deletion that was broken off can be
    repeated."""
    asked, num_deleted = {"team_id": team_id, "id": job_id}, 0
    while True:
        async with connection.transaction():
            gone = (await connection.execute(_DELETE_TRACES, asked)).rowcount
            was_there = not gone and (await connection.execute(_DELETE_JOB, asked)).rowcount > 0
            num_deleted += gone
            if gone or was_there:
                await on_change(connection, num_deleted)
        if not gone:
            return was_there or num_deleted > 0, num_deleted
