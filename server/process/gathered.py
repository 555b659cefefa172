"""Questions that come while others are asked are gathered, and asked together by one statement.

A single one is asked at once. The more come, the more share a statement, so that a crowd costs little more processor
time than a few. Nobody gets an answer to a statement that began before he asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

_RUNNING = 2
"""Statements at once: one that waits for a connection that broke does not hold up all others."""
_TOGETHER = 200


class Gathered(Generic[Q, A]):
    """Asks by `fetch`, whose answers are by their questions; one without an answer is answered by None. `within_s`: for
    so long others are gathered even when no statement runs. Belongs to one event loop."""

    def __init__(self, fetch: Callable[[Sequence[Q]], Awaitable[Mapping[Q, A]]], within_s: float = 0.0) -> None:
        self._fetch = fetch
        self._within_s = within_s
        self._waiting: dict[Q, asyncio.Future[A | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A | None:
        """The answer. Raises what the fetch raises."""
        answer = self._waiting.setdefault(question, asyncio.get_running_loop().create_future())
        self._start()
        return await asyncio.shield(answer)  # others may wait for it too: who gives up does not take it from them

    def _start(self) -> None:
        if self._waiting and len(self._tasks) < _RUNNING:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()

    async def _run(self) -> None:
        if self._within_s:
            await asyncio.sleep(self._within_s)
        asked = {question: self._waiting.pop(question) for question in list(self._waiting)[:_TOGETHER]}
        for answer in asked.values():
            answer.add_done_callback(lambda done: done.exception())  # asked for, even if all who waited have given up
        try:
            found = await self._fetch(list(asked)) if asked else {}
        except Exception as error:
            for answer in asked.values():
                answer.set_exception(error)
            return
        for question, answer in asked.items():
            answer.set_result(found.get(question))
