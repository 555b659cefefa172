"""Questions that come while others are asked go together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from server.process.gathered import Gathered


class Squares:
    """Numbers and their squares; none for negative ones. Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = list[list[int]]()
        self.gate = asyncio.Event()

    async def fetch(self, numbers: Sequence[int]) -> dict[int, int]:
        self.asked.append(list(numbers))
        await self.gate.wait()
        if 13 in numbers:
            raise ValueError("13")
        return {number: number**2 for number in numbers if number >= 0}


async def asked(gathered: Gathered[int, int], *numbers: int) -> list[asyncio.Task[int | None]]:
    """After each of which whatever it starts has started."""
    tasks = []
    for number in numbers:
        tasks.append(asyncio.create_task(gathered.ask(number)))
        for _ in range(3):
            await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_two_statements_run_is_asked_by_the_next():
    squares = Squares()
    tasks = await asked(Gathered(squares.fetch), 1, 2, 3, 4, 3, -5)
    squares.gate.set()
    assert await asyncio.gather(*tasks) == [1, 4, 9, 16, 9, None]
    assert squares.asked == [[1], [2], [3, 4, -5]]


async def test_nobody_gets_an_answer_of_a_statement_that_began_before_he_asked():
    squares = Squares()
    tasks = await asked(Gathered(squares.fetch), 1, 2, 1)
    squares.gate.set()
    await asyncio.gather(*tasks)
    assert squares.asked == [[1], [2], [1]]


async def test_a_failure_reaches_those_who_asked_together_and_no_others():
    squares = Squares()
    gathered = Gathered(squares.fetch)
    tasks = await asked(gathered, 1, 2, 13, 4)
    squares.gate.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ended] == [int, int, ValueError, ValueError]
    assert await gathered.ask(4) == 16


async def test_who_gives_up_takes_nothing_from_the_others():
    squares = Squares()
    tasks = await asked(Gathered(squares.fetch), 1, 2, 3, 3)
    tasks[2].cancel()
    squares.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    assert await tasks[3] == 9


async def test_with_a_time_to_gather_those_who_come_within_it_go_together():
    squares = Squares()
    squares.gate.set()
    tasks = await asked(Gathered(squares.fetch, within_s=0.2), 1, 2, 3)
    assert await asyncio.gather(*tasks) == [1, 4, 9]
    assert squares.asked == [[1, 2, 3]]
