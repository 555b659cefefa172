"""Rollouts that never exit are closed after a time of silence, so that their jobs end. Every server looks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from server.process.settings import ServerSettings
from store.database import Database
from store.repeating import RepeatedTask, Rhythm
from store.rollouts import close_silent_traces

log = structlog.get_logger(__name__)


@asynccontextmanager
async def closing_rollouts(settings: ServerSettings) -> AsyncGenerator[None]:
    """Close silent rollouts in the background until the block ends. The first time after one interval, so that a
    service that was down gets reports of its rollouts before it closes them."""
    if settings.garbage_collection is None:
        yield
        return
    how, database = settings.garbage_collection, Database(settings.database_url, pool_size=1)

    async def close() -> None:
        closed = await asyncio.to_thread(close_silent_traces, database, how.close_traces_after_s)
        if closed:
            log.info("silent_rollouts_closed", rollouts=closed)

    try:
        async with RepeatedTask(close, Rhythm(how.close_every_s, failed="closing_failed")):
            yield
    finally:
        database.close()
