"""Evaluates the guard's rules in the background of every server, so that no request waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from server.catalog.heads import Heads
from server.evals.jobs import score_jobs
from server.guard.acting import act_due
from server.guard.checking import check_due
from server.guard.paths import Paths
from server.process.loop_thread import LoopThread
from server.process.settings import GuardSettings
from store.database import AsyncDatabase
from store.notify import GUARD_DUE, OPERATION_DONE, Subscription, SubscriptionElsewhere
from store.repeating import RepeatedTask, Rhythm

_PAUSE_S = 1.0
"""Between two looks, however many notifications come."""
_LEAST_S = 1.0
"""Between two looks at jobs, however soon those are scored."""
_FAILED = "guard_failed"


@asynccontextmanager
async def guarding(heads: Heads, settings: GuardSettings) -> AsyncGenerator[None]:
    """Watch over all models until the block ends.

    Looking is a quarter of what a step costs a server, and 15 ms at a stretch where a path is read: it has a thread
    with an event loop and a connection of its own. Acting is rare and waits for others, a roll-back for samplers and a
    webhook for its receiver, for up to a minute each, in which what other models do is still looked at.
    """
    here, looked = asyncio.get_running_loop(), asyncio.Event()
    listener, rhythm = heads.listener, Rhythm(settings.every_s, failed=_FAILED, at_once=True)

    async def act() -> None:
        looked.clear()
        await act_due(heads, settings)

    async def until_looked(pause_s: float) -> None:
        """Return when something new was looked at, or after a pause: attempts are repeated."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), pause_s)

    async with LoopThread("guard") as thread:
        due = SubscriptionElsewhere(thread.loop)
        url = heads.database.url.render_as_string(hide_password=False)
        looking = _looking(url, settings, due, lambda: here.call_soon_threadsafe(looked.set))
        with listener.listening(OPERATION_DONE, None, due), listener.listening(GUARD_DUE, None, due):
            async with thread.within(looking), RepeatedTask(act, rhythm, until_looked):
                yield


@asynccontextmanager
async def _looking(
    url: str, settings: GuardSettings, due: Subscription, looked: Callable[[], object]
) -> AsyncGenerator[None]:
    """Score jobs, and hold the rules against all that is new, which may raise alarms; `looked` is called then."""
    database, paths, jobs_at = AsyncDatabase(url, pool_size=1), Paths(), 0.0
    every_s = min(settings.every_s, max(settings.settle_s, _LEAST_S))

    async def look() -> None:
        nonlocal jobs_at
        if time.monotonic() >= jobs_at:
            await score_jobs(database, settings.settle_s)
            jobs_at = time.monotonic() + every_s
        while await check_due(database, paths):
            looked()

    async def until_due(pause_s: float) -> None:
        await asyncio.sleep(min(_PAUSE_S, pause_s))
        await due.wait(pause_s)

    try:
        async with RepeatedTask(look, Rhythm(every_s, failed=_FAILED, at_once=True), until_due):
            yield
    finally:
        await database.close()
