"""Lookup cache: equal lookups share an answer for 10 ms; a change is acknowledged only after older answers expired.

Thousands of rollouts ask the database the same: this key, this model. An answer is good for all who come within
`CACHE_LIFETIME_S` of the moment at which it was asked for. It may then miss what was committed in between; but whoever
makes such a change (a new head, a revoked key) gets the reply only when that time has gone by (`store.cache_barrier`),
or when every process has dropped its answers before (`store.cache_acknowledgements`), so a request that comes after a
change was acknowledged sees it, whichever process it comes to. No clocks are compared, and no notification has to
arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from server.metrics.instruments import ServerMetrics
from store import cache_barrier
from store.cache_acknowledgements import CacheAcknowledgements

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class SharedLookups(Generic[Q, A]):
    """At most one fetch of a question runs, and at most one is next."""

    def __init__(
        self,
        fetch: Callable[[Q], Awaitable[A]],
        metrics: ServerMetrics | None = None,
        good_for_s: float | None = None,
        acknowledgements: CacheAcknowledgements | None = None,
    ) -> None:
        """`acknowledgements`: says when answers may be kept, and has them dropped."""
        self._fetch = fetch
        self._metrics = metrics or ServerMetrics()
        self._good_for_s = cache_barrier.CACHE_LIFETIME_S if good_for_s is None else good_for_s
        self._acknowledgements = acknowledgements
        if acknowledgements is not None:
            acknowledgements.watch(self.drop)
        self._good: dict[Q, tuple[asyncio.Future[A], float]] = {}
        self._running: dict[Q, asyncio.Future[A]] = {}
        self._next: dict[Q, asyncio.Future[A]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def drop(self) -> None:
        """Who asks after this gets no answer from before it."""
        self._good.clear()

    async def ask(self, question: Q) -> A:
        """The answer as of `good_for_s` ago or later. Raises what the fetch raises."""
        loop = asyncio.get_running_loop()
        answer, good_until = self._good.get(question, (None, 0.0))
        if answer is not None and time.monotonic() < good_until:  # the loop's own clock only moves between turns
            self._metrics.looked_up(shared=True)
        elif question not in self._running:
            self._metrics.looked_up(shared=False)
            answer = self._start(question, loop.create_future())
        else:
            self._metrics.looked_up(shared=question in self._next)
            if question not in self._next:
                self._next[question] = loop.create_future()
            answer = self._next[question]
        if answer.done():
            return answer.result()
        return await asyncio.shield(answer)  # others may wait for it too: who gives up does not take it from them

    def _start(self, question: Q, answer: asyncio.Future[A]) -> asyncio.Future[A]:
        good = answer, time.monotonic() + self._good_for_s
        if self._acknowledgements is None or self._acknowledgements.may_keep:
            self._good[question] = good
        self._running[question] = answer
        answer.add_done_callback(lambda done: done.exception())  # asked for, even if all who waited have given up
        task = asyncio.create_task(self._run(question, good))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _run(self, question: Q, good: tuple[asyncio.Future[A], float]) -> None:
        answer, good_until = good
        try:
            answer.set_result(await self._fetch(question))
        except Exception as error:
            self._forget(question, good)
            answer.set_exception(error)
        finally:
            following = self._next.pop(question, None)
            if following is None:
                del self._running[question]
                left_s = max(0.0, good_until - time.monotonic())
                asyncio.get_running_loop().call_later(left_s, self._forget, question, good)
            else:
                self._start(question, following)

    def _forget(self, question: Q, good: tuple[asyncio.Future[A], float]) -> None:
        if self._good.get(question) is good:
            del self._good[question]
