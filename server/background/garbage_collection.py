"""Collections now and then, in a thread of the server; the database sees to it that one server at a time collects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from server.settings import ServerSettings
from store.blobs import BlobStore
from store.checkpoint_stores import open_checkpoint_store
from store.database import DATABASE_AWAY, Database
from store.retention import Collector
from wire.errors import Conflict, Unavailable

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
        BlobStore(settings.blob_root),
        open_checkpoint_store(settings.garbage_collection.checkpoint_store_url),
    )
    collector = Collector(database, blobs, checkpoints, settings.garbage_collection.policy)
    task = asyncio.create_task(_keep_collecting(collector, settings.garbage_collection.every_s))
    try:
        yield
    finally:
        collector.stop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        database.close()


async def _keep_collecting(collector: Collector, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            removed = await asyncio.to_thread(collector.collect)
            if removed:
                log.info("collected", removals=len(removed), bytes=sum(removal.num_bytes or 0 for removal in removed))
        except Conflict as busy:
            log.info("collection_left_out", reason=busy.message)
        except Unavailable as away:
            log.warning("collection_failed", error=away.message)
        except DATABASE_AWAY as error:
            log.warning("collection_failed", error=str(error).partition("\n")[0])
        except Exception:  # a disk that refuses must not end the collections to come
            log.exception("collection_failed")
