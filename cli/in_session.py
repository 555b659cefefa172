"""Commands that do one thing in one transaction of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from cli.ending import or_stop
from store.database import AsyncDatabase

T = TypeVar("T")


def in_session(database_url: str, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """What `act` returns, once its transaction is committed. Raises what it raises."""

    async def once(database: AsyncDatabase) -> T:
        async with database.session() as session:
            return await act(session)

    return with_database(database_url, once)


def with_database(database_url: str, act: Callable[[AsyncDatabase], Awaitable[T]]) -> T:
    """What `act` returns, which opens its transactions itself. Raises what it raises."""

    async def run() -> T:
        database = AsyncDatabase(database_url, pool_size=1)
        try:
            return await act(database)
        finally:
            await database.close()

    return asyncio.run(run())


def in_session_or_stop(database_url: str, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """What `act` returns, or the end of the command with a sentence."""
    return or_stop(lambda: in_session(database_url, act))
