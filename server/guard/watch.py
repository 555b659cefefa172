"""The guard at work, in the background of every server: never in the way of a request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from server.catalog.heads import Heads
from server.evals.jobs import score_jobs
from server.guard.acting import act_due
from server.guard.checking import check_due
from server.settings import GuardSettings
from store.database import DATABASE_AWAY
from store.notify import GUARD_DUE, OPERATION_DONE
from wire.errors import Unavailable

log = structlog.get_logger(__name__)

_PAUSE_S = 1.0
"""Between two looks, however many notifications come."""


@asynccontextmanager
async def guarding(heads: Heads, settings: GuardSettings) -> AsyncGenerator[None]:
    """Watch over all models until the block ends."""
    task = asyncio.create_task(_keep_watching(heads, settings))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_watching(heads: Heads, settings: GuardSettings) -> None:
    every_s, jobs_at = settings.every_s, 0.0
    listener = heads.listener
    with listener.subscribe(OPERATION_DONE, None) as steps, listener.subscribe(GUARD_DUE, None) as others:
        while True:
            try:
                if time.monotonic() >= jobs_at:
                    await score_jobs(heads.database, settings.settle_s)
                    jobs_at = time.monotonic() + every_s
                await check_due(heads.database)
                await act_due(heads, settings)
            except Unavailable as away:
                log.warning("guard_failed", error=away.message)
            except DATABASE_AWAY as error:
                log.warning("guard_failed", error=str(error).partition("\n")[0])
            except Exception:  # the next round tries again
                log.exception("guard_failed")
            await asyncio.sleep(min(_PAUSE_S, every_s))
            waits = [asyncio.create_task(one.wait(every_s)) for one in (steps, others)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
