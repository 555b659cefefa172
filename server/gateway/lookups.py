"""Equal questions that are asked at the same time share one answer, which is never older than any of them.

Thousands of rollouts ask the database the same: this key, this model. An answer that was being fetched when a question
came might miss what was committed in between, so that question waits for the next fetch, which then serves all that
have come meanwhile. Nothing is remembered: a head that moved before a request came is seen by it, and so is a key that
was revoked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from server.metrics.instruments import ServerMetrics
from store.database import AsyncDatabase
from store.serving import Question, Serving, find_serving, live_urls

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

PIN_S = 600.0
"""How long samplers hold a checkpoint after a request that named it."""


class SharedLookups(Generic[Q, A]):
    """At most one fetch of a question runs, and at most one is next."""

    def __init__(self, fetch: Callable[[Q], Awaitable[A]], metrics: ServerMetrics | None = None) -> None:
        self._fetch = fetch
        self._metrics = metrics or ServerMetrics()
        self._running: dict[Q, asyncio.Future[A]] = {}
        self._next: dict[Q, asyncio.Future[A]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """The answer as of now or later. Raises what the fetch raises."""
        self._metrics.looked_up(shared=question in self._next)
        if question not in self._running:
            answer = self._start(question, asyncio.get_running_loop().create_future())
        elif question in self._next:
            answer = self._next[question]
        else:
            answer = self._next[question] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(answer)  # others may wait for it too: who gives up does not take it from them

    def _start(self, question: Q, answer: asyncio.Future[A]) -> asyncio.Future[A]:
        self._running[question] = answer
        answer.add_done_callback(lambda done: done.exception())  # asked for, even if all who waited have given up
        task = asyncio.create_task(self._run(question, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _run(self, question: Q, answer: asyncio.Future[A]) -> None:
        try:
            answer.set_result(await self._fetch(question))
        except Exception as error:
            answer.set_exception(error)
        finally:
            following = self._next.pop(question, None)
            if following is None:
                del self._running[question]
            else:
                self._start(question, following)


def serving_lookups(database: AsyncDatabase, metrics: ServerMetrics) -> SharedLookups[Question, Serving | None]:
    """Whose key, which weights, who holds them."""

    async def fetch(question: Question) -> Serving | None:
        async with database.connection() as connection:
            return await find_serving(connection, question, PIN_S / 2)

    return SharedLookups(fetch, metrics)


def live_sampler_urls(database: AsyncDatabase) -> Callable[[], Awaitable[set[str]]]:
    """Where the samplers are whose heartbeat has not run out, whatever they hold."""

    async def fetch() -> set[str]:
        async with database.connection() as connection:
            return await live_urls(connection)

    return fetch
