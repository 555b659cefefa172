"""Rollouts that never exit are closed after a time of silence, so that their jobs end. Every server looks for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from server.settings import GarbageCollectionSettings, ServerSettings
from store.database import DATABASE_AWAY, Database
from store.rollouts import close_silent_traces

log = structlog.get_logger(__name__)


@asynccontextmanager
async def closing_rollouts(settings: ServerSettings) -> AsyncGenerator[None]:
    """Close silent rollouts in the background until the block ends. The first time after one interval, so that a
    service that comes back hears of its rollouts before it judges them."""
    if settings.garbage_collection is None:
        yield
        return
    database = Database(settings.database_url, pool_size=1)
    task = asyncio.create_task(_keep_closing(database, settings.garbage_collection))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        database.close()


async def _keep_closing(database: Database, settings: GarbageCollectionSettings) -> None:
    while True:
        await asyncio.sleep(settings.close_every_s)
        try:
            closed = await asyncio.to_thread(close_silent_traces, database, settings.close_traces_after_s)
            if closed:
                log.info("silent_rollouts_closed", rollouts=closed)
        except DATABASE_AWAY as error:
            log.warning("closing_failed", error=str(error).partition("\n")[0])
        except Exception:  # the next round tries again
            log.exception("closing_failed")
