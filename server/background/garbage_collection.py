"""Collects garbage periodically, in a thread of the server; a lock in the database lets one server at a time
collect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from server.process.settings import ServerSettings
from store.blob_stores import open_blob_store
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.repeating import RepeatedTask, Rhythm
from store.retention.collecting import Collector
from wire.errors import Conflict

log = structlog.get_logger(__name__)


@asynccontextmanager
async def collecting_garbage(settings: ServerSettings) -> AsyncGenerator[None]:
    """Collect in the background until the block ends. The first time after one interval, so that a service that comes
    back is up before its old rows are judged."""
    if settings.garbage_collection is None or not settings.garbage_collection.every_s:
        yield
        return
    database = Database(settings.database_url, pool_size=2)
    blobs, checkpoints = (
        open_blob_store(settings.blob_store_url),
        open_checkpoint_store(settings.garbage_collection.checkpoint_store_url),
    )
    collector = Collector(database, blobs, checkpoints, settings.garbage_collection.policy)

    async def collect() -> None:
        try:
            removed = await asyncio.to_thread(collector.collect)
        except Conflict as busy:
            log.info("collection_left_out", reason=busy.message)
            return
        if removed:
            log.info("collected", removals=len(removed), bytes=sum(removal.num_bytes or 0 for removal in removed))

    try:
        async with RepeatedTask(collect, Rhythm(settings.garbage_collection.every_s, failed="collection_failed")):
            try:
                yield
            finally:
                collector.stop()
    finally:
        database.close()
