"""Heartbeats of client sessions: those that come within half a second are written by one statement.

Thousands of clients send one every ten seconds. Each waits for the statement that writes it, for its answer says
whether the session is still open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

from server.client_sessions.service import no_such_session, session_finished
from server.process.gathered import Gathered
from server.values.sanitizing import is_storable
from store.database import AsyncDatabase

_WITHIN_S = 0.5

_Beat: TypeAlias = tuple[UUID, str]

# Rows are locked in the order of their ids, and left to another process that is just writing them.
_WRITE = """
    with asked as (
        select * from unnest(%(team_ids)s::uuid[], %(ids)s::text[]) as a(team_id, id)
    ), alive as (
        select s.id from client_sessions s join asked using (team_id, id)
        where s.finished_at is null order by s.id for update of s skip locked
    ), written as (
        update client_sessions s set heartbeat_at = clock_timestamp() from alive where s.id = alive.id
    )
    select s.team_id, s.id, s.finished_at is not null as is_finished
    from asked join client_sessions s using (team_id, id)
"""


class Heartbeats:
    """Of one server process. Belongs to one event loop."""

    def __init__(self, database: AsyncDatabase, *, within_s: float = _WITHIN_S) -> None:
        self._database = database
        self._gathered = Gathered(self._write, within_s)

    async def beat(self, team_id: UUID, session_id: str) -> None:
        """The session lives. Raises NotFound, SessionFinished, or what the database raises while it is away."""
        if not is_storable(session_id):
            raise no_such_session(session_id)
        is_finished = await self._gathered.ask((team_id, session_id))
        if is_finished is None:
            raise no_such_session(session_id)
        if is_finished:
            raise session_finished(session_id)

    async def _write(self, beats: Sequence[_Beat]) -> dict[_Beat, bool]:
        """Whether each session that there is has been finished."""
        values = {"team_ids": [team_id for team_id, _ in beats], "ids": [session_id for _, session_id in beats]}
        async with self._database.connection() as connection:
            rows = await (await connection.execute(_WRITE, values)).fetchall()
        return {(row.team_id, row.id): row.is_finished for row in rows}
