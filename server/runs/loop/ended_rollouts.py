"""Wakes the controllers of runs whose rollouts have ended, and no others.

Notifications name placements: of all runs, and of what is no run's. Those that come within a tenth of a second are
looked up by one statement, however many runs a process carries out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

from store.database import AsyncDatabase
from store.notify import PLACEMENT_CHANGED, AsyncListener, Subscription
from store.repeating import RepeatedTask, Rhythm

_TOGETHER_S = 0.1
_LOOK_EVERY_S = 60.0

_RUNS = """
    select distinct h.run_id from hosted_rollouts h join placements p on p.id = h.placement_id
    where h.placement_id = any(%(placement_ids)s::uuid[]) and h.run_id = any(%(run_ids)s::uuid[]) and p.state = 'ended'
"""


class EndedRollouts:
    """Of the runs that this process carries out. Belongs to the listener's event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._watched = dict[UUID, Subscription]()
        self._changed = set[str]()
        self._changes = Subscription()

    @asynccontextmanager
    async def listening(self, listener: AsyncListener) -> AsyncGenerator[None]:
        """Until the block ends."""
        listener.handle(PLACEMENT_CHANGED, self._note)
        rhythm = Rhythm(_LOOK_EVERY_S, failed="ended_rollouts_not_looked_up", retry_s=1.0)
        async with RepeatedTask(self._wake, rhythm, self._until_changed):
            yield

    @contextmanager
    def watching(self, run_id: UUID, subscription: Subscription) -> Generator[None]:
        """Wake this one until the block ends."""
        self._watched[run_id] = subscription
        try:
            yield
        finally:
            if self._watched.get(run_id) is subscription:
                del self._watched[run_id]

    def _note(self, placement_id: str) -> None:
        if self._watched:
            self._changed.add(placement_id)
            self._changes.wake()

    async def _until_changed(self, pause_s: float) -> None:
        await self._changes.wait(pause_s)
        await asyncio.sleep(_TOGETHER_S)

    async def _wake(self) -> None:
        changed, self._changed = self._changed, set()
        if not changed or not self._watched:
            return
        asked = {"placement_ids": list(changed), "run_ids": list(self._watched)}
        ended = set(self._watched)  # all of them, where it cannot be known
        try:
            async with self._database.connection() as connection:
                ended = {row.run_id for row in await (await connection.execute(_RUNS, asked)).fetchall()}
        finally:
            for run_id in ended & self._watched.keys():
                self._watched[run_id].wake()
