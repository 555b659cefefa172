"""Work on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from server.process.loop_thread import LoopThread
from store.notify import SubscriptionElsewhere


async def test_work_that_computes_there_does_not_hold_up_this_loop():
    went_on = threading.Event()

    async def work() -> bool:
        return went_on.wait(10)

    async with LoopThread("other") as thread:
        waiting = asyncio.create_task(thread.run(work()))
        await asyncio.sleep(0.05)
        went_on.set()
        assert await waiting


async def test_a_loop_that_cannot_be_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    def no_loop(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio.Runner, "get_loop", no_loop)
    with pytest.raises(OSError, match="Too many open files"):
        async with asyncio.timeout(5), LoopThread("other"):
            pass


async def test_a_block_is_entered_and_left_there():
    seen = list[str]()

    @asynccontextmanager
    async def block() -> AsyncGenerator[int]:
        seen.append(threading.current_thread().name)
        yield 7
        seen.append(threading.current_thread().name)

    async with LoopThread("other") as thread, thread.within(block()) as number:
        assert number == 7
    assert seen == ["other", "other"]
    assert "other" not in {thread.name for thread in threading.enumerate()}


async def test_what_the_work_raises_is_raised_here():
    async def work() -> None:
        raise LookupError("nothing there")

    async with LoopThread("other") as thread:
        with pytest.raises(LookupError, match="nothing there"):
            await thread.run(work())


async def test_a_task_that_is_left_there_is_cancelled():
    ended = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        return task

    async with LoopThread("other") as thread:
        await thread.run(begin())
    assert ended.is_set()


async def test_a_wake_up_reaches_who_waits_on_the_other_loop():
    async with LoopThread("other") as thread:
        subscription = SubscriptionElsewhere(thread.loop)
        waiting = asyncio.create_task(thread.run(subscription.wait(10)))
        await asyncio.sleep(0.02)
        began = time.monotonic()
        subscription.wake()
        subscription.wake()
        assert await waiting
        assert time.monotonic() - began < 5
