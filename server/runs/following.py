"""Follows a run: its events as they happen."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from uuid import UUID

from server.process.shutdown import ServerStopping, Shutdown
from server.runs.events import list_events
from server.runs.types import RunEvent
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import RUN_CHANGED, AsyncListener
from store.run_states import LIVE
from store.tables import RunRow

_AT_ONCE = 100
_POLL_S = 5.0


class RunFollower:
    """Of one run. `database`: of the background, since a follower holds no place among requests."""

    def __init__(self, database: AsyncDatabase, listener: AsyncListener, shutdown: Shutdown, run_id: UUID) -> None:
        self._database = database
        self._listener = listener
        self._shutdown = shutdown
        self._run_id = run_id

    async def events(self, after: int, keep_alive_s: float) -> AsyncGenerator[RunEvent | None]:
        """Each event from then on, in order; None whenever there was none for so long. Ends when the run has ended and
        everything was said, when it was deleted, or when this process stops."""
        said_at = time.monotonic()
        with self._listener.subscribe(RUN_CHANGED, self._run_id.hex) as changes:
            while True:
                found, has_ended = await self._look(after)
                for event in found:
                    after, said_at = event.seq, time.monotonic()
                    yield event
                if has_ended and not found:
                    return
                if found:
                    continue
                try:
                    async with self._shutdown.waiting():
                        await changes.wait(max(0.0, min(_POLL_S, said_at + keep_alive_s - time.monotonic())))
                except ServerStopping:
                    return
                if time.monotonic() >= said_at + keep_alive_s:
                    said_at = time.monotonic()
                    yield None

    async def _look(self, after: int) -> tuple[list[RunEvent], bool]:
        try:
            async with self._database.session() as session:
                run = await session.get(RunRow, self._run_id)  # before its events: what ends it is among them
                found = await list_events(session, self._run_id, after, _AT_ONCE)
        except DATABASE_AWAY:
            return [], False
        return found.items, run is None or (run.state not in LIVE)
