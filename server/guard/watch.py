"""Evaluates the guard's rules in the background of every server, so that no request waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from server.catalog.heads import Heads
from server.evals.jobs import score_jobs
from server.guard.acting import act_due
from server.guard.checking import check_due
from server.guard.paths import Paths
from server.process.settings import GuardSettings
from store.notify import GUARD_DUE, OPERATION_DONE, Subscription
from store.repeating import RepeatedTask, Rhythm

_PAUSE_S = 1.0
"""Between two looks, however many notifications come."""


@asynccontextmanager
async def guarding(heads: Heads, settings: GuardSettings) -> AsyncGenerator[None]:
    """Watch over all models until the block ends.

    Looking and acting are two tasks: a roll-back waits for samplers and a webhook for its receiver, for up to a minute
    each, in which what other models do is still looked at.
    """
    looks, listener = _Looks(heads, settings), heads.listener
    rhythm = Rhythm(settings.every_s, failed="guard_failed", at_once=True)
    with listener.subscribe(OPERATION_DONE, None) as steps, listener.subscribe(GUARD_DUE, None) as others:
        looking = RepeatedTask(looks.look, rhythm, lambda pause_s: _until_due(pause_s, steps, others))
        acting = RepeatedTask(looks.act, rhythm, looks.until_looked)
        async with looking, acting:
            yield


class _Looks:
    """Whatever is due at a moment."""

    def __init__(self, heads: Heads, settings: GuardSettings) -> None:
        self._heads, self._settings = heads, settings
        self._jobs_at = 0.0
        self._looked = asyncio.Event()
        self._paths = Paths()

    async def look(self) -> None:
        """Score jobs and hold the rules against all that is new, which may raise alarms."""
        if time.monotonic() >= self._jobs_at:
            await score_jobs(self._heads.database, self._settings.settle_s)
            self._jobs_at = time.monotonic() + self._settings.every_s
        while await check_due(self._heads.database, self._paths):
            self._looked.set()

    async def act(self) -> None:
        """Do what alarms ask for."""
        self._looked.clear()
        await act_due(self._heads, self._settings)

    async def until_looked(self, pause_s: float) -> None:
        """Return when something new was looked at, or after a pause: attempts are repeated."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), pause_s)


async def _until_due(pause_s: float, *subscriptions: Subscription) -> None:
    await asyncio.sleep(min(_PAUSE_S, pause_s))
    waits = [asyncio.create_task(one.wait(pause_s)) for one in subscriptions]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
