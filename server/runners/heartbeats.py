"""Heartbeats of runners: those that come while others are written are written together.

A thousand runners send three hundred a second. Each waits for the statement that writes it, whose answer says what the
runner shall stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from server.process.gathered import Gathered
from store.database import AsyncDatabase
from store.placements.presence import Found, Pulse, Shown, beat


class RunnerHeartbeats:
    """Of one server process. Belongs to one event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._gathered = Gathered(self._write)

    async def beat(
        self, runner_id: UUID, team_id: UUID, held: Sequence[tuple[UUID, int]], trouble: str | None
    ) -> Pulse | None:
        """The runner of a key of this team lives and holds these placements, by their attempts. None: there is no such
        runner. Raises what the database raises while it is away."""
        found = await self._gathered.ask(Shown(runner_id, team_id, trouble))
        return None if found is None else found.pulse(held)

    async def _write(self, shown: Sequence[Shown]) -> dict[Shown, Found]:
        async with self._database.connection() as connection:
            return await beat(connection, shown)
