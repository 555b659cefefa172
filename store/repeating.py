"""The one way to repeat a task: a round, a pause, the next round, whatever became of the one before.

A round that raises is logged under the task's own event and ends nothing: in one line while the database is away, which
passes by itself, with its traceback otherwise. `RepeatedTask` runs on the event loop, `RepeatedThread` in a thread of
its own, for work that blocks. A round that waits for something itself, such as a notification, has no pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from store.database import DATABASE_AWAY
from wire.errors import Unavailable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """every_s: from the end of a round to the next one. failed: the event under which a round that raised is logged.

    at_once: the first round begins at once, not after a pause. retry_s: the pause after a round that raised, where that
    is another one.
    """

    every_s: float
    failed: str
    at_once: bool = False
    retry_s: float | None = None

    @property
    def first_pause_s(self) -> float:
        """Before the first round."""
        return 0.0 if self.at_once else self.every_s

    def pause_after(self, error: Exception) -> float:
        """Log what a round raised; for how long to pause then."""
        if isinstance(error, (*DATABASE_AWAY, Unavailable)):
            log.warning(self.failed, error=str(error).partition("\n")[0])
        else:
            log.error(self.failed, exc_info=error)
        return self.every_s if self.retry_s is None else self.retry_s


class RepeatedTask:
    """From `start` to `close`, or while its block runs. `pause`: waits so many seconds, or less with cause."""

    def __init__(
        self,
        work: Callable[[], Awaitable[object]],
        rhythm: Rhythm,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._work, self._rhythm, self._pause = work, rhythm, pause
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End, in the midst of a round if there is one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def __aenter__(self) -> RepeatedTask:
        self.start()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def _run(self) -> None:
        pause_s = self._rhythm.first_pause_s
        while True:
            if pause_s:
                await self._pause(pause_s)
            try:
                await self._work()
                pause_s = self._rhythm.every_s
            except Exception as error:
                pause_s = self._rhythm.pause_after(error)


class RepeatedThread:
    """From `start` until a round ends after `stop`, when the thread calls `finish`. Started once."""

    def __init__(
        self, name: str, work: Callable[[], object], rhythm: Rhythm, finish: Callable[[], object] = lambda: None
    ) -> None:
        self._work, self._rhythm, self._finish = work, rhythm, finish
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no round any more. Does not wait for the one under way."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait for the round under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause_s = self._rhythm.first_pause_s
        while not self._stop.wait(pause_s):
            try:
                self._work()
                pause_s = self._rhythm.every_s
            except Exception as error:
                pause_s = self._rhythm.pause_after(error)
        self._finish()
