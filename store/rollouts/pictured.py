"""Which rollouts have pictures, and which."""

from __future__ import annotations

from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.traces import TraceFilter, conditions


async def pictures_of_trace(connection: AsyncConnection, team_id: UUID, trace_id: UUID) -> set[str]:
    """Names of the blobs that the rollout's samples, messages and spans name as pictures."""
    query = "select name from trace_pictures where team_id = %(team_id)s and trace_id = %(trace_id)s"
    found = await connection.execute(query, {"team_id": team_id, "trace_id": trace_id})
    return {row.name for row in await found.fetchall()}


async def have_pictures(connection: AsyncConnection, team_id: UUID, wanted: TraceFilter) -> bool:
    """Whether a prompt of any of these rollouts has one."""
    where, values = conditions(team_id, wanted)
    query = f"""
        select exists (
            select from samples s join traces t on t.team_id = s.team_id and t.id = s.trace_id
            where s.team_id = %(team_id)s and s.media is not null and {where}
        )
    """  # noqa: S608 - put together from constants
    row = await (await connection.execute(query.encode(), values)).fetchone()
    return bool(row and row[0])
