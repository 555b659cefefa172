"""Runners that wait for work: who is woken for what, and how many look into the queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest

from server.runners import waiting
from server.runners.waiting import Place, WaitingRunners, Wants
from store.database import AsyncDatabase
from store.notify import AsyncListener
from tests.contract.stand_in_runner import add_environment, place

MOST_S = 20.0


@asynccontextmanager
async def waiting_runners(url: str) -> AsyncIterator[tuple[WaitingRunners, AsyncDatabase]]:
    async with AsyncExitStack() as stack:
        database, listener = AsyncDatabase(url), AsyncListener(url)
        stack.push_async_callback(database.close)
        stack.push_async_callback(listener.close)
        await listener.start()
        runners = WaitingRunners(database, listener)
        stack.push_async_callback(runners.close)
        runners.start()
        yield runners, database


def wants(label: str, *kinds: str) -> Wants:
    return Wants(None, frozenset(kinds or ("session",)), frozenset([label]))


async def first_woken(places: list[Place]) -> list[int]:
    """Which of them are woken together."""
    tasks = [asyncio.create_task(place.wait(MOST_S)) for place in places]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.1)
    woken = [number for number, task in enumerate(tasks) if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return woken


@pytest.fixture(autouse=True)
def it_never_looks_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LOOK_EVERY_S", 1000.0)


async def test_one_placement_wakes_the_runner_that_waited_longest_and_no_other(postgres_url: str):
    label = uuid.uuid4().hex
    async with waiting_runners(postgres_url) as (runners, database):
        build = await add_environment(database, label, label)
        with ExitStack() as stack:
            places = [stack.enter_context(runners.place(wants(label))) for _ in range(50)]
            for one in reversed(places):
                one.take()
            await place(database, build, label)
            assert await first_woken(places) == [49]


async def test_a_runner_without_the_label_or_the_kind_is_not_woken(postgres_url: str):
    label = uuid.uuid4().hex
    async with waiting_runners(postgres_url) as (runners, database):
        build = await add_environment(database, label, label)
        with ExitStack() as stack:
            asked = [wants("other"), wants(label, "rollout"), wants(label)]
            places = [stack.enter_context(runners.place(one)) for one in asked]
            for one in places:
                one.take()
            await place(database, build, label)
            assert await first_woken(places) == [2]


async def test_a_long_queue_wakes_a_wave_and_the_next_when_somebody_found_something(postgres_url: str):
    label = uuid.uuid4().hex
    async with waiting_runners(postgres_url) as (runners, database):
        build = await add_environment(database, label, label)
        with ExitStack() as stack:
            places = [stack.enter_context(runners.place(wants(label))) for _ in range(20)]
            for _ in range(12):
                await place(database, build, label)
            for one in places:
                one.take()
            runners.look_again()
            assert await first_woken(places) == list(range(8))
            runners.look_again()
            assert await first_woken(places[8:]) == list(range(8))


async def test_a_runner_that_left_when_it_was_woken_passes_its_turn_on(postgres_url: str):
    label = uuid.uuid4().hex
    async with waiting_runners(postgres_url) as (runners, database):
        build = await add_environment(database, label, label)
        with runners.place(wants(label)) as second:
            with runners.place(wants(label)) as first:
                first.take()
                second.take()
                await place(database, build, label)
                assert await first.wait(MOST_S)
            assert await second.wait(MOST_S)


async def test_what_is_queued_while_a_runner_looks_wakes_it_again(postgres_url: str):
    label = uuid.uuid4().hex
    async with waiting_runners(postgres_url) as (runners, database):
        build = await add_environment(database, label, label)
        with runners.place(wants(label)) as only:
            only.take()
            await place(database, build, label)
            await asyncio.sleep(0.2)  # it looks into the queue, and does not wait yet
            assert await only.wait(MOST_S)
