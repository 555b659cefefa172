"""Which of the runners that wait for work look into the queue, so that a thousand of them do not look at once.

One task of the process asks the database what is queued: when something was, when a runner came to wait, and now and
then unasked. It wakes runners that could take some of it, those first that have waited longest, and no more than there
is for them to take. Each looks for itself (`store.placements.leasing`), and where it found something the task asks
again; so a long queue is handed out in waves.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncDatabase
from store.notify import PLACEMENT_QUEUED, AsyncListener, Subscription
from store.placements.queued import Queued, what_is_queued
from store.repeating import RepeatedTask, Rhythm

_LOOK_EVERY_S = 2.0
"""For what becomes available as time goes by, and in case a notification was lost."""
_AT_ONCE = 8
"""Runners that one wave wakes for the same: they lease one after another anyway."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What a runner may take: work of one team or of all, of these kinds, that asks for no other labels."""

    team_id: UUID | None
    kinds: frozenset[str]
    labels: frozenset[str]

    def includes(self, queued: Queued) -> bool:
        """Whether the runner may take it."""
        is_its_teams = self.team_id is None or self.team_id == queued.team_id
        return is_its_teams and queued.kind in self.kinds and self.labels.issuperset(queued.labels)


@dataclass(frozen=True, slots=True)
class Place:
    """Of one runner. `take`: behind all others again, for one that was woken; to be called before the runner looks into
    the queue, so that nothing that is queued meanwhile escapes it."""

    woken: asyncio.Event
    take: Callable[[], None]

    async def wait(self, timeout_s: float) -> bool:
        """Until it is this runner's turn to look; False when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.woken.wait()
        except TimeoutError:
            return False
        return True


class WaitingRunners:
    """Of one server process."""

    def __init__(self, database: AsyncDatabase, listener: AsyncListener) -> None:
        self._database, self._listener = database, listener
        self._waiting = dict[asyncio.Event, Wants]()
        self._queued = Subscription()
        self._looking = RepeatedTask(self._look, Rhythm(0.0, failed="queue_not_seen", retry_s=1.0))

    def start(self) -> None:
        """Wake runners from now on."""
        self._listener.handle(PLACEMENT_QUEUED, lambda _: self.look_again())
        self._looking.start()

    async def close(self) -> None:
        """Wake nobody any more."""
        await self._looking.close()

    def look_again(self) -> None:
        """Somebody found something, or could not come for it: there may be something for others."""
        self._queued.wake()

    @contextmanager
    def place(self, wants: Wants) -> Generator[Place]:
        """A place behind all others that wait, until the block ends."""
        woken = asyncio.Event()

        def take_place() -> None:
            self._waiting.pop(woken, None)
            woken.clear()
            self._waiting[woken] = wants

        take_place()
        try:
            yield Place(woken, take_place)
        finally:
            self._waiting.pop(woken, None)
            if woken.is_set():
                self.look_again()

    async def _look(self) -> None:
        await self._queued.wait(_LOOK_EVERY_S)
        if self._waiting:
            async with self._database.connection() as connection:
                self._wake(await what_is_queued(connection))

    def _wake(self, queued: Collection[Queued]) -> None:
        left = Counter({one: min(one.num, _AT_ONCE) for one in queued})
        for woken, wants in list(self._waiting.items()):
            if not left:
                return
            one = next((one for one in left if wants.includes(one)), None)
            if one is not None:
                woken.set()
                del self._waiting[woken]
                left[one] -= 1
                if not left[one]:
                    del left[one]
