"""An event loop in a thread of its own, for work that would make requests wait for its turns.

The interpreter lock is shared, so this saves no processor time: what it saves is that a request waits for a switch of
threads (5 ms at most, and less wherever the work waits itself), not until the work comes to its next `await`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A loop of the same kind as the caller's, while the block runs. What is left on it at the end is cancelled."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.loop: asyncio.AbstractEventLoop
        """Known within the block."""

    async def __aenter__(self) -> LoopThread:
        """Raises OSError where there can be no loop."""
        started = concurrent.futures.Future[asyncio.AbstractEventLoop]()
        kind = type(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._run, args=(kind, started), name=self._name, daemon=True)
        self._thread.start()
        self.loop = await asyncio.wrap_future(started)
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self._thread.join)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, or raises, there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    @asynccontextmanager
    async def within(self, block: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
        """Enter the block there, and leave it there at the end."""
        entered = await self.run(_entered(block))
        try:
            yield entered
        finally:
            await self.run(_left(block))

    @staticmethod
    def _run(
        kind: type[asyncio.AbstractEventLoop], started: concurrent.futures.Future[asyncio.AbstractEventLoop]
    ) -> None:
        runner = asyncio.Runner(loop_factory=kind)
        try:
            loop = runner.get_loop()
        except OSError as error:  # of a process that may open no more files
            started.set_exception(error)
            return
        with runner:
            started.set_result(loop)
            loop.run_forever()


async def _entered(block: AbstractAsyncContextManager[T]) -> T:
    return await block.__aenter__()


async def _left(block: AbstractAsyncContextManager[Any]) -> None:
    await block.__aexit__(None, None, None)
