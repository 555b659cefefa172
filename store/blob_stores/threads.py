"""Threads of a process's own for calls of its blob store, which may last for as long as a network is silent.

asyncio's threads also resolve names for database connections, read files and unpack: calls that hang there would stop
what needs no blob. Here few calls wait for a thread, and not for long.

A call that lasts may be a large upload, or one of a store that is silent. So after `slow_s` a small question is put to
the store, by one thread for all calls. While it answers, calls go on; when it does not within `answer_s`, every call
that waits is refused, and new ones at once, until an answer comes. What a refused call had begun goes on in its thread:
a blob without a row, which is collected.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from store.blob_stores.base import BlobStore
from store.object_store.away import StoreAway
from wire.errors import Unavailable

T = TypeVar("T")
P = ParamSpec("P")

THREADS_OF_BLOBS = "blob-store"
"""How their names begin."""
_RETRY_S = 5
_AWAY = "the blob store does not answer; nothing was accepted, try again"
_BUSY = "this server has more calls to its blob store than this answers at the moment; nothing was accepted, try again"


class BlobThreads:
    """Calls of one store. May be used from several event loops."""

    def __init__(
        self,
        answers: Callable[[], bool] | None = None,
        *,
        threads: int = 16,
        most_waiting: int = 256,
        patience_s: float = 3.0,
        slow_s: float = 1.5,
        answer_s: float = 2.0,
    ) -> None:
        """answers: the small question, which raises nothing; None: it is not put. patience_s: how long a call waits for
        a thread, rounded up to slow_s."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=THREADS_OF_BLOBS)
        self._asking = ThreadPoolExecutor(1, thread_name_prefix=f"{THREADS_OF_BLOBS}-answers")
        self._answers, self._slow_s, self._answer_s = answers, slow_s, answer_s
        self._question: Future[bool] | None = None
        self._most = threads + most_waiting
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._num_calls = 0
        self._is_away = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, which calls the store. It goes on in its thread when whoever waits here is cancelled,
        or refused.

        Raises Unavailable for what did not begin, and while the store does not answer, and what `work` raises.
        """
        call = self._submit(partial(copy_context().run, work, *args, **kwargs))
        result = asyncio.wrap_future(call)
        try:
            await self._until_done(call, result)
            return result.result()
        finally:
            result.cancel()  # and the call, where it has not begun

    def close(self) -> None:
        """What has not begun does not begin any more."""
        for executor in (self._executor, self._asking):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _until_done(self, call: Future[T], result: asyncio.Future[T]) -> None:
        """Raises Unavailable."""
        waited_s = 0.0
        while not await _is_done(result, self._slow_s):
            waited_s += self._slow_s
            if not await self._is_answering(result):
                raise self._refusal()
            if waited_s >= self._patience_s and call.cancel():
                raise self._refusal()

    async def _is_answering(self, result: asyncio.Future[T]) -> bool:
        """Whether the store answers, or the call has ended meanwhile."""
        if (question := self._ask()) is None:
            return True
        answer = asyncio.wrap_future(question)
        await asyncio.wait({answer, result}, timeout=self._answer_s, return_when=asyncio.FIRST_COMPLETED)
        is_answering = result.done() or (answer.done() and answer.result())
        if not is_answering:
            self._is_away = True
        return is_answering

    def _ask(self) -> Future[bool] | None:
        """The question that is under way, or a new one."""
        if self._answers is None:
            return None
        with self._lock:
            if self._question is None or self._question.done():
                self._question = self._asking.submit(self._answers)
                self._question.add_done_callback(self._note_answer)
            return self._question

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            is_refused = self._num_calls >= (1 if self._is_away else self._most)
            self._num_calls += not is_refused
        if is_refused:
            if self._is_away:
                self._ask()
            raise self._refusal()
        call = self._executor.submit(work)
        call.add_done_callback(self._note)
        return call

    def _refusal(self) -> Unavailable:
        return Unavailable(_AWAY if self._is_away else _BUSY, retry_after_s=_RETRY_S)

    def _note(self, call: Future[T]) -> None:
        with self._lock:
            self._num_calls -= 1
            if not call.cancelled():
                self._is_away = isinstance(call.exception(), StoreAway)

    def _note_answer(self, answer: Future[bool]) -> None:
        if not answer.cancelled():
            self._is_away = not answer.result()


class ThreadedBlobs(BlobStore):
    """A store with threads of its own."""

    threads: BlobThreads


async def in_blob_thread(blobs: BlobStore, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, which calls this store: from one of the store's threads, or of asyncio's where it has none.

    Raises Unavailable, and what `work` raises.
    """
    if isinstance(blobs, ThreadedBlobs):
        return await blobs.threads.run(work, *args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


async def _is_done(future: asyncio.Future[T], timeout_s: float) -> bool:
    """Which is not cancelled when this is."""
    done, _ = await asyncio.wait({future}, timeout=timeout_s)
    return bool(done)
