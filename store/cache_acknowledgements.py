"""Server processes drop what they have looked up when another one changes it, and acknowledge that.

Whoever has changed what lookups read waits until every other process has acknowledged, or until all that was looked up
before has expired (`store.cache_barrier`), whichever is first; not at all where there is no other process. Which
others there are, the rows of `servers` say (`store.planes.presence`), read after the change was committed: a process
keeps no lookup before its row is committed, so what one keeps that is not found there began after the change. No
process can hold up a change: one that is slow, or hangs, or is of an earlier version is waited for 11 ms as before.
See docs/decisions/0029.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from store.cache_barrier import caches_expire_at, wait_until_caches_expire
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import CACHES_DROPPED, CACHES_STALE, AsyncListener

log = structlog.get_logger(__name__)

_ASK = f"""
    with others as (select number from servers where number <> %(number)s)
    select array(select number from others) as others,
        (select pg_notify('{CACHES_STALE}', %(call)s) where exists (select from others))
"""  # noqa: S608 - put together from a constant

_ACKNOWLEDGE = f"""
    select pg_notify('{CACHES_DROPPED}', call || ' ' || %(number)s::text) from unnest(%(calls)s::text[]) as call
"""  # noqa: S608

_PATIENCE_S = 1.0
"""Longer than anybody waits for acknowledgements; then they are not collected any more."""


class CacheAcknowledgements:
    """Of one server process, which keeps lookups. Belongs to one event loop."""

    def __init__(self, database: AsyncDatabase, listener: AsyncListener) -> None:
        """`database`: for statements that must not wait for those of requests."""
        self._database, self._listener = database, listener
        self._caches: list[Callable[[], None]] = []
        self._calls: dict[str, _Call] = {}
        self._numbers = itertools.count(1)
        self._owed: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        listener.handle(CACHES_STALE, self._note_stale)
        listener.handle(CACHES_DROPPED, self._note_dropped)

    @property
    def may_keep(self) -> bool:
        """Whether lookups may be kept: others find this process when they change something."""
        return self._listener.presence.is_listed

    def watch(self, drop: Callable[[], None]) -> None:
        """Call this whenever what was looked up before must not be used any more."""
        self._caches.append(drop)

    async def expire(self) -> None:
        """Return when no server process can use an answer from before this call."""
        until = caches_expire_at()
        self._drop()
        asking = self._begin(self._all_acknowledge())  # is never cancelled: its connection would be lost
        await asyncio.wait({asking}, timeout=until - time.monotonic())
        if not asking.done() or asking.exception() is not None:
            await wait_until_caches_expire(until)

    async def close(self) -> None:
        """Keep nothing any more, and be no longer waited for. Raises nothing while the database is away: the row is
        removed by others."""
        self._drop()
        try:
            async with self._database.connection() as connection:
                await self._listener.presence.leave(connection)
        except DATABASE_AWAY:
            pass
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_acknowledge(self) -> None:
        number = self._listener.presence.number
        name, call = f"{number}:{next(self._numbers)}", _Call()
        self._calls[name] = call
        try:
            async with self._database.connection() as connection:
                asked = await connection.execute(_ASK.encode(), {"number": number, "call": name})
                row = await asked.fetchone()
            call.expect(row.others if row else [])
            async with asyncio.timeout(_PATIENCE_S):
                await call.answered.wait()
        finally:
            del self._calls[name]

    def _note_stale(self, call: str) -> None:
        if call.startswith(f"{self._listener.presence.number}:"):
            return
        self._drop()
        self._owed.append(call)
        if len(self._owed) == 1:
            self._begin(self._acknowledge())

    async def _acknowledge(self) -> None:
        """All that came until there is a connection, in one statement."""
        try:
            async with self._database.connection() as connection:
                calls, self._owed = self._owed, []
                values = {"number": self._listener.presence.number, "calls": calls}
                await connection.execute(_ACKNOWLEDGE.encode(), values)
        except DATABASE_AWAY:  # whoever asks waits until everything has expired
            self._owed = []

    def _note_dropped(self, key: str) -> None:
        name, _, number = key.partition(" ")
        if (call := self._calls.get(name)) is not None:
            call.note(int(number))

    def _drop(self) -> None:
        for drop in self._caches:
            drop()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(fault := task.exception(), Exception):
            log.debug("caches_not_acknowledged", error=str(fault).partition("\n")[0])


class _Call:
    """A change for which acknowledgements are collected. They may come before it is known from whom."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self._expected: frozenset[int] | None = None
        self._heard: set[int] = set()

    def expect(self, others: Iterable[int]) -> None:
        """These processes have to acknowledge."""
        self._expected = frozenset(others)
        self._look()

    def note(self, number: int) -> None:
        """This one has."""
        self._heard.add(number)
        self._look()

    def _look(self) -> None:
        if self._expected is not None and self._expected <= self._heard:
            self.answered.set()
