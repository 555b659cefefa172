"""What has to be looked at now and then, because nothing happens when it changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from server.metrics.instruments import ServerMetrics
from store.database import AsyncDatabase

_EVERY_S = 5.0


@asynccontextmanager
async def watching_pools(metrics: ServerMetrics, database: AsyncDatabase) -> AsyncGenerator[None]:
    """Note how the connection pools are used until the block ends."""

    async def watch() -> None:
        while True:
            for pool, (in_use, idle, waiting) in database.connections().items():
                metrics.connections(pool, in_use, idle, waiting)
            await asyncio.sleep(_EVERY_S)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
