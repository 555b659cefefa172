"""Equal questions share an answer, and no answer is older than its question."""

from __future__ import annotations

import asyncio

import pytest

from server.gateway.lookups import SharedLookups


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


async def test_a_question_never_gets_an_answer_that_was_fetched_before_it_came():
    database = Database()
    lookups = SharedLookups(database.read)
    before = asyncio.create_task(lookups.ask("head"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
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


async def test_nothing_is_remembered():
    database = Database()
    database.gate.set()
    lookups = SharedLookups(database.read)
    assert await lookups.ask("head") == "head: old"
    database.value = "new"
    assert await lookups.ask("head") == "head: new"
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
