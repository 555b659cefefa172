"""Threads of a process's own for calls of its blob store, which may last for as long as a network is silent.

asyncio's threads also resolve names for database connections, read files and unpack: calls that hang there would stop
what needs no blob. Here few calls wait for a thread, and not for long; and while the store does not answer, one call at
a time finds out whether it is back, and all others are refused at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
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

    def __init__(self, *, threads: int = 16, most_waiting: int = 256, patience_s: float = 5.0) -> None:
        """patience_s: how long a call waits for a thread."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=THREADS_OF_BLOBS)
        self._most = threads + most_waiting
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._num_calls = 0
        self._is_away = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, which calls the store. It goes on in its thread when whoever waits here is cancelled.

        Raises Unavailable for what did not begin, and what `work` raises.
        """
        begun = asyncio.Event()
        loop, context = asyncio.get_running_loop(), copy_context()

        def carry_out() -> T:
            loop.call_soon_threadsafe(begun.set)
            return context.run(work, *args, **kwargs)

        call = self._submit(carry_out)
        try:
            if not call.running() and not await _is_set(begun, self._patience_s) and call.cancel():
                raise self._refusal()
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            call.cancel()
            raise

    def close(self) -> None:
        """What has not begun does not begin any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._num_calls >= (1 if self._is_away else self._most):
                raise self._refusal()
            self._num_calls += 1
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


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
