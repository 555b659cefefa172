"""Processes that keep lookups: who waits for whom when one of them changes what was looked up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from server.process.shared_lookups import SharedLookups
from store import cache_barrier
from store.cache_acknowledgements import CacheAcknowledgements
from store.database import AsyncDatabase
from store.notify import CACHES_STALE, AsyncListener
from store.planes import presence

LIFETIME_S = 0.5
LONG_S = 60.0
"""A lifetime that nobody waits for by mistake, however busy the machine."""


@dataclass
class Process:
    """What of a server process takes part."""

    acknowledgements: CacheAcknowledgements
    listener: AsyncListener
    dropped: list[float] = field(default_factory=list[float])

    async def seconds_to_expire(self) -> float:
        began = time.monotonic()
        await self.acknowledgements.expire()
        return time.monotonic() - began


async def expire_at_once(*processes: Process) -> None:
    """Raises TimeoutError where one waits until what others kept has expired."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_barrier, "CACHE_LIFETIME_S", LONG_S)
        async with asyncio.timeout(LONG_S / 2):
            await asyncio.gather(*(process.acknowledgements.expire() for process in processes))


Start = Callable[[], AbstractAsyncContextManager[Process]]


@pytest.fixture
async def start(database, monkeypatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(cache_barrier, "CACHE_LIFETIME_S", LIFETIME_S)
    url = database.url.render_as_string(hide_password=False)

    @asynccontextmanager
    async def process() -> AsyncGenerator[Process]:
        own, listener = AsyncDatabase(url, pool_size=2), AsyncListener(url)
        listener.presence.details = {"version": "1"}
        acknowledgements = CacheAcknowledgements(own, listener)
        await listener.start()
        async with asyncio.timeout(10):
            while not listener.presence.is_listed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        made = Process(acknowledgements, listener)
        acknowledgements.watch(lambda: made.dropped.append(time.monotonic()))
        await acknowledgements.expire()  # connects
        made.dropped.clear()
        try:
            yield made
        finally:
            await acknowledgements.close()
            await listener.close()
            await own.close()

    yield process
    with database.session() as session:
        session.execute(text("delete from servers"))


async def test_a_process_that_is_alone_waits_for_nobody_and_drops_its_own(start):
    async with start() as one:
        await expire_at_once(one)
        assert len(one.dropped) == 1


async def test_others_drop_what_they_kept_and_acknowledge(start):
    async with start() as one, start() as two, start() as three:
        two.dropped.clear()
        await expire_at_once(one)
        assert (len(two.dropped), len(three.dropped)) == (1, 1)
        await expire_at_once(*[one, two, three] * 8)


async def test_one_that_does_not_acknowledge_is_waited_for_until_all_has_expired(start):
    async with start() as one, start() as silent:
        silent.listener.handle(CACHES_STALE, lambda call: None)
        assert LIFETIME_S <= await one.seconds_to_expire() < LONG_S / 2


async def test_one_that_died_is_waited_for_while_its_row_is_there(start, database, monkeypatch):
    async with start() as one:
        async with start() as dead:
            monkeypatch.setattr(dead.listener.presence, "leave", lambda connection: asyncio.sleep(0))
        assert await one.seconds_to_expire() >= LIFETIME_S
        with database.session() as session:
            session.execute(text("update servers set seen_at = seen_at - make_interval(secs => 55)"))
        async with start():
            pass  # removes the rows of those that were not seen for a minute: not this one
        assert await one.seconds_to_expire() >= LIFETIME_S
        with database.session() as session:
            session.execute(text("update servers set seen_at = seen_at - make_interval(secs => 10)"))
        async with start():
            pass
        await expire_at_once(one)


async def test_one_that_lives_is_in_the_list_however_long_it_was_not_seen(start, database):
    async with start() as one, start() as two:
        two.listener.handle(CACHES_STALE, lambda call: None)
        with database.session() as session:
            session.execute(text("update servers set seen_at = seen_at - interval '1 hour'"))
        async with start():
            pass
        assert await one.seconds_to_expire() >= LIFETIME_S


async def test_while_the_database_is_away_everything_expires(start, monkeypatch):
    async with start() as one:
        await one.acknowledgements._database.close()
        monkeypatch.setattr(
            "store.cache_acknowledgements._ASK", f"select pg_sleep({LONG_S}), array[]::bigint[] as others"
        )
        assert LIFETIME_S <= await one.seconds_to_expire() < LONG_S / 2


async def test_lookups_are_kept_only_while_others_find_the_process(start, monkeypatch):
    asked = 0

    async def fetch(question: str) -> int:
        nonlocal asked
        asked += 1
        return asked

    async with start() as one:
        lookups = SharedLookups(fetch, acknowledgements=one.acknowledgements)
        assert [await lookups.ask("who") for _ in range(3)] == [1, 1, 1]
        await one.acknowledgements.expire()
        assert [await lookups.ask("who") for _ in range(2)] == [2, 2]
        lookups.drop()
        monkeypatch.setattr(presence, "LISTED_FOR_S", 0.0)
        assert [await lookups.ask("who") for _ in range(2)] == [3, 4]
