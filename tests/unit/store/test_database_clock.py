"""One clock for what several processes write down in the order of time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from store import database_clock
from store.database import AsyncDatabase
from store.database_clock import DatabaseClock
from store.planes.presence import Presence

HOUR = timedelta(hours=1)
NEAR = timedelta(minutes=5)


def test_it_goes_on_from_what_the_database_answered():
    clock, later = DatabaseClock(), datetime.now(UTC) + HOUR
    clock.set(later, time.monotonic())
    first = clock.now()
    assert later <= first <= clock.now()
    assert first - later < NEAR


def test_half_of_the_round_trip_is_taken_off():
    clock, answered = DatabaseClock(), datetime(2030, 1, 1, tzinfo=UTC)
    clock.set(answered, time.monotonic() - 10)
    assert clock.now() - answered >= timedelta(seconds=5)


def test_it_does_not_go_back_with_a_clock_that_is_set_back_and_follows_one_that_is_set_forward():
    clock, at = DatabaseClock(), datetime(2030, 1, 1, tzinfo=UTC)
    clock.set(at, time.monotonic())
    clock.set(at - HOUR, time.monotonic())
    assert timedelta(0) <= clock.now() - at < NEAR
    clock.set(at + HOUR, time.monotonic())
    assert timedelta(0) <= clock.now() - (at + HOUR) < NEAR


def test_it_follows_a_clock_that_was_set_back_after_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_clock, "_GOES_ON_S", 0.05)
    clock, at = DatabaseClock(), datetime(2030, 1, 1, tzinfo=UTC)
    clock.set(at, time.monotonic())
    clock.set(at - HOUR, time.monotonic())
    assert clock.now() >= at
    time.sleep(0.1)
    clock.set(at - HOUR, time.monotonic())
    assert clock.now() - (at - HOUR) < NEAR


async def test_a_server_whose_machine_is_an_hour_off_has_the_databases_clock_when_it_is_listed(postgres_url: str):
    database, presence = AsyncDatabase(postgres_url, pool_size=1), Presence()
    assert presence.clock.now() <= datetime.now(UTC), "its own machine's, until it has asked"
    presence.clock._then += HOUR
    async with database.connection() as connection:
        await presence.renew(connection)
    async with database.session() as session:
        then = await session.scalar(text("select clock_timestamp()"))
    await database.close()
    assert then is not None
    assert abs(presence.clock.now() - then) < NEAR
