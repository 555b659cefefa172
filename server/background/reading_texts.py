"""Reads the texts of rollouts so that they can be searched: after the fact, one by one, one server at a time.

Nothing that records waits for it. It rests three times as long as it worked, so that it takes a quarter of one
processor at most however many rollouts wait, as after an upgrade.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from server.rollouts.texts import pass_over, read_text
from store.blob_stores import BlobStore
from store.database import DATABASE_AWAY, AsyncDatabase
from store.repeating import RepeatedTask, Rhythm
from store.rollouts.unread import unread_traces

_LOOK_EVERY_S = 2.0
_AT_ONCE = 100
_REST = 3.0
_LOCK = 0x68775F74657874  # "hw_text"


@asynccontextmanager
async def reading_texts(database_url: str, blobs: BlobStore) -> AsyncGenerator[None]:
    """Look for unread rollouts now and then until the block ends. One connection holds the lock, another works."""
    database = AsyncDatabase(database_url, pool_size=2)

    async def read() -> None:
        async with database.connection() as connection:
            row = await (await connection.execute(f"select pg_try_advisory_lock({_LOCK}) as got".encode())).fetchone()
            if not row or not row.got:
                return
            try:
                while await _read_some(database, blobs):
                    pass
            finally:
                if not connection.closed:
                    await connection.execute(f"select pg_advisory_unlock({_LOCK})".encode())

    try:
        async with RepeatedTask(read, Rhythm(_LOOK_EVERY_S, failed="texts_not_read")):
            yield
    finally:
        await database.close()


async def _read_some(database: AsyncDatabase, blobs: BlobStore) -> int:
    """How many were read."""
    async with database.connection() as connection:
        traces = await unread_traces(connection, _AT_ONCE)
    for trace in traces:
        began = time.monotonic()
        try:
            await read_text(database, blobs, trace)
        except DATABASE_AWAY:
            raise
        except Exception as error:  # whatever is wrong with one rollout must not keep the others from being found
            await pass_over(database, trace, error)
        await asyncio.sleep(_REST * (time.monotonic() - began))
    return len(traces)
