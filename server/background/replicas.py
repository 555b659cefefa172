"""How many server processes there are, so that each grants its share of what a team may have in all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog

from store.database import AsyncDatabase
from store.planes.presence import count_processes

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 10.0


@asynccontextmanager
async def counting_replicas(database: AsyncDatabase, tell: Callable[[int], None]) -> AsyncGenerator[None]:
    """Tell the number now and then, until the block ends."""
    task = asyncio.create_task(_keep_counting(database, tell))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_counting(database: AsyncDatabase, tell: Callable[[int], None]) -> None:
    while True:
        try:
            async with database.connection() as connection:
                tell(max(await count_processes(connection), 1))
        except Exception as error:  # the last number will do
            log.warning("neighbours_not_counted", error=str(error).partition("\n")[0])
        await asyncio.sleep(_LOOK_EVERY_S)
