"""Equal questions share an answer, and nobody gets one that is older than what is remembered."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.process.shared_lookups import SharedLookups


class Database:
    """A value, and how often it was read. A read takes what is there when it begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.value = "old"
        self.num_reads = 0
        self.gate = asyncio.Event()

    async def read(self, question: str) -> str:
        self.num_reads += 1
        value = f"{question}: {self.value}"
        await self.gate.wait()
        if question == "broken":
            raise ValueError(question)
        return value


SHORT_S = 0.02


async def test_a_question_never_gets_an_answer_that_was_asked_for_too_long_before_it_came():
    database = Database()
    lookups = SharedLookups(database.read, good_for_s=SHORT_S)
    before = asyncio.create_task(lookups.ask("head"))
    await asyncio.sleep(SHORT_S + 0.005)
    database.value = "new"
    after = [asyncio.create_task(lookups.ask("head")) for _ in range(100)]
    await asyncio.sleep(0)
    database.gate.set()
    assert await before == "head: old"
    assert set(await asyncio.gather(*after)) == {"head: new"}
    assert database.num_reads == 2, "the hundred shared one"


async def test_different_questions_do_not_wait_for_each_other():
    database = Database()
    lookups = SharedLookups(database.read)
    asked = [asyncio.create_task(lookups.ask(question)) for question in "ab"]
    await asyncio.sleep(0.01)
    assert database.num_reads == 2
    database.gate.set()
    assert await asyncio.gather(*asked) == ["a: old", "b: old"]


async def test_an_answer_is_good_for_a_moment_that_begins_with_its_question():
    database = Database()
    moment_s = 0.5  # a busy machine may sleep for much longer than it was asked to
    lookups = SharedLookups(database.read, good_for_s=moment_s)
    first = asyncio.create_task(lookups.ask("head"))
    await asyncio.sleep(0.01)
    database.value = "new"
    second = asyncio.create_task(lookups.ask("head"))
    await asyncio.sleep(0)
    database.gate.set()
    assert await first == await second == await lookups.ask("head") == "head: old"
    assert database.num_reads == 1
    time.sleep(moment_s)  # noqa: ASYNC251 - the loop's clock stands still meanwhile
    assert await lookups.ask("head") == "head: new"


async def test_a_lookup_that_takes_longer_than_its_answer_is_good_runs_once_at_a_time():
    database = Database()
    lookups = SharedLookups(database.read, good_for_s=SHORT_S)
    asked = []
    for _ in range(5):
        asked += [asyncio.create_task(lookups.ask("head")) for _ in range(3)]
        await asyncio.sleep(SHORT_S)
    assert (database.num_reads, len(lookups._running), len(lookups._next)) == (1, 1, 1)
    database.gate.set()
    await asyncio.gather(*asked)
    assert database.num_reads == 2


async def test_nothing_is_left_of_what_was_asked():
    database = Database()
    database.gate.set()
    lookups = SharedLookups(database.read, good_for_s=SHORT_S)
    await asyncio.gather(*(lookups.ask(f"head {n}") for n in range(50)))
    await asyncio.sleep(SHORT_S * 2)
    assert not lookups._good
    assert not lookups._running
    assert not lookups._next


async def test_who_gives_up_takes_nothing_from_the_others():
    database = Database()
    lookups = SharedLookups(database.read)
    first, second, third = (asyncio.create_task(lookups.ask("head")) for _ in range(3))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0.01)
    database.gate.set()
    assert await third == "head: old"


async def test_a_failure_reaches_all_who_asked_and_is_forgotten():
    database = Database()
    lookups = SharedLookups(database.read)
    asked = [asyncio.create_task(lookups.ask("broken")) for _ in range(3)]
    await asyncio.sleep(0.01)
    database.gate.set()
    assert all(isinstance(e, ValueError) for e in await asyncio.gather(*asked, return_exceptions=True))
    with pytest.raises(ValueError):
        await lookups.ask("broken")
    assert not lookups._running
