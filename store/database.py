"""Connections and transactions. A session scope is one transaction; nothing else in the code commits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

DATABASE_AWAY = (psycopg.OperationalError, OperationalError, InterfaceError, PoolTimeout)
"""What is raised while PostgreSQL is down, restarting, or has no connection left. Trying again may help."""


def normalise_url(url: str) -> URL:
    """Any spelling of a PostgreSQL URL, with the psycopg 3 driver. Raises ValueError for other databases."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"Headway needs PostgreSQL, not {parsed.get_backend_name()}")
    return parsed.set(drivername="postgresql+psycopg")


def psycopg_dsn(url: URL) -> str:
    """The same database as libpq spells it, for connections outside the pool (LISTEN)."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class AsyncDatabase:
    """The server's connections."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url = normalise_url(url)
        self._engine = create_async_engine(self.url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """One transaction: committed at the end, rolled back when an exception passes through."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


class Database:
    """A worker's connections."""

    def __init__(self, url: str, *, pool_size: int = 4) -> None:
        self.url = normalise_url(url)
        self._engine = create_engine(self.url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)

    @contextmanager
    def session(self) -> Generator[Session]:
        """One transaction: committed at the end, rolled back when an exception passes through."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close the pool."""
        self._engine.dispose()
