"""The rollouts before and behind one: in its group, and in a filtered list."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.traces import TraceFacts, TraceFilter, conditions, rows_of

_MOST_OF_A_GROUP = 1_000


@dataclass(frozen=True, slots=True)
class Neighbours:
    """In the order of the list; None: there is none. Of a group: `place`, from 1, of `total`."""

    previous: UUID | None
    following: UUID | None
    place: int | None = None
    total: int | None = None


async def neighbours_in_group(
    connection: AsyncConnection, trace: TraceFacts, model_ids: list[UUID] | None
) -> Neighbours | None:
    """The oldest first. None of a rollout without a group, or alone in it. model_ids: as of a filter."""
    if trace.group_id is None:
        return None
    wanted = TraceFilter(group_id=trace.group_id, job_id=trace.job_id, model_ids=model_ids)
    where, values = conditions(trace.team_id, wanted)
    query = f"select t.id from traces t where {where} order by t.created_at, t.id limit {_MOST_OF_A_GROUP}"
    ids = [row.id for row in await (await connection.execute(query.encode(), values)).fetchall()]
    if trace.id not in ids or len(ids) == 1:
        return None
    place = ids.index(trace.id)
    after = ids[place + 1] if place + 1 < len(ids) else None
    return Neighbours(ids[place - 1] if place else None, after, place + 1, len(ids))


async def neighbours_in_list(connection: AsyncConnection, trace: TraceFacts, wanted: TraceFilter) -> Neighbours:
    """Of the list of rollouts with this filter, whose newest is the first. Raises InvalidRequest."""
    return Neighbours(
        await _next(connection, trace, wanted, ">", "asc"), await _next(connection, trace, wanted, "<", "desc")
    )


async def _next(
    connection: AsyncConnection, trace: TraceFacts, wanted: TraceFilter, than: str, order: str
) -> UUID | None:
    where, values = conditions(trace.team_id, wanted)
    query = f"""
        select t.id from {rows_of(wanted)} where {where} and (t.created_at, t.id) {than} (%(at)s, %(own_id)s)
        order by t.created_at {order}, t.id {order} limit 1
    """
    asked = {**values, "at": trace.created_at, "own_id": trace.id}
    row = await (await connection.execute(query.encode(), asked)).fetchone()
    return row.id if row else None
