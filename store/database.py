"""Connections and transactions. A session scope is one transaction; nothing else in the code commits.

Two scopes: `session` is the ORM's, for everything that may take a millisecond. `connection` is the driver's own, for
the few statements that every training operation goes through: each is a transaction of its own unless the caller
opens one. A statement with its scope costs 0.1 ms there, and 0.7 ms in a session.
"""

from __future__ import annotations

import select
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine, NullPool, Pool, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from store.cache_barrier import WatchedSession, has_changed_cached, wait_until_caches_expire
from store.keepalives import notice_lost_clients, with_keepalives
from store.pool_queue import PoolQueue, QueueLimits, TooBusy

DATABASE_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    OperationalError,
    InterfaceError,
    PoolTimeout,
    TooBusy,
)
"""What is raised while PostgreSQL is down, restarting, or has no connection left. Trying again may help."""

DATABASE_REFUSES = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.ReadOnlySqlTransaction,
)
"""What the driver raises where rights or tables are missing, or the database is a standby. Its keeper can help."""
DATABASE_UNUSABLE = (*DATABASE_AWAY, psycopg.Error, DBAPIError)
"""All that a database raises, for `unusable_reason` to say whether its keeper can help."""

_FULL = ("too many clients", "connection slots are reserved", "too many connections")


def away_sentence(error: Exception) -> str:
    """What one of DATABASE_AWAY means for whoever keeps the database: it is full, or it does not answer."""
    if any(words in str(error) for words in _FULL):
        return "PostgreSQL has no free connection (max_connections)"
    return "the database does not answer"


def away_reason(error: Exception) -> str:
    """That the database does not answer, and what the driver says of it, for whoever starts a command."""
    return f"the database does not answer: {_first_line(_cause(error))}"


def unusable_reason(error: Exception) -> str | None:
    """Of one of DATABASE_UNUSABLE: as `away_reason`, or what is missing and what to do about it; None for a fault of
    ours."""
    if isinstance(error, DATABASE_AWAY):
        return away_reason(error)
    cause = _cause(error)
    said = _first_line(cause)
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        remedy = "grant its user select, insert, update and delete on all tables; migrations need their owner"
        return f"the database refuses ({said}): {remedy}"
    if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):
        return f"the database takes no writes ({said}): connect to the primary"
    if isinstance(cause, DATABASE_REFUSES):
        return f"the database lacks what this Headway needs ({said}): run `headway migrate` first"
    return None


def _cause(error: Exception) -> Exception:
    """The driver's, where SQLAlchemy has wrapped it."""
    return getattr(error, "orig", None) or error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


ONE_MOMENT = text("set transaction isolation level repeatable read")
"""The first statement of a session whose others shall all see the database as it is at one moment."""

Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
"""Of the driver, in autocommit; rows are named tuples."""

_DRIVER_POOL: dict[str, Any] = {
    "connect_args": {"autocommit": True, "row_factory": namedtuple_row},
    "pool_reset_on_return": None,
    "pool_use_lifo": True,
    "max_overflow": 0,
}


def normalise_url(url: str) -> URL:
    """Any spelling of a PostgreSQL URL, with the psycopg 3 driver, and how soon a lost connection is noticed. A line's
    end, which Secrets made of files have, is not of the database's name. Raises ValueError for other databases and for
    what is no URL."""
    try:
        parsed = make_url(url.strip())
    except ArgumentError:  # whose sentence may hold the password
        raise ValueError("the database's URL cannot be read: write postgresql://USER:PASSWORD@HOST:5432/NAME") from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError(f"Headway needs PostgreSQL, not {parsed.get_backend_name()}")
    return with_keepalives(parsed.set(drivername="postgresql+psycopg"))


def psycopg_dsn(url: URL) -> str:
    """The same database as libpq spells it, for connections outside the pool (LISTEN)."""
    address, mark, query = url.set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    return f"{address}{mark}{query.replace('+', '%20')}"  # libpq reads a plus sign as one


class AsyncDatabase:
    """The server's connections. Both scopes raise TooBusy where too many wait for one."""

    def __init__(
        self, url: str, *, pool_size: int = 20, driver_pool_size: int | None = None, limits: QueueLimits | None = None
    ) -> None:
        """Connections of each scope: `pool_size`, or `driver_pool_size` of the driver's."""
        self.url = normalise_url(url)
        self.expire_caches: Callable[[], Awaitable[None]] | None = None
        """How a server waits for the caches of others; None: until everything in them has expired."""
        sizes = {"session": pool_size, "driver": driver_pool_size or pool_size}
        self._queues = {name: PoolQueue(size, limits or QueueLimits()) for name, size in sizes.items()}
        self._engine = create_async_engine(self.url, pool_size=sizes["session"], max_overflow=0)
        self._driver = create_async_engine(self.url, pool_size=sizes["driver"], **_DRIVER_POOL)
        for engine in (self._engine, self._driver):
            _replace_dead_connections(engine.sync_engine)
            notice_lost_clients(engine.sync_engine)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """One transaction: committed at the end, rolled back when an exception passes through. After a change of what
        server processes cache, it returns when their answers have expired (`store.cache_barrier`)."""
        async with (
            self._queues["session"].turn(),
            AsyncSession(self._engine, sync_session_class=WatchedSession, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
        if has_changed_cached(session):
            await self.wait_until_caches_expire()

    async def wait_until_caches_expire(self) -> None:
        """Return when no server process can use a lookup from before this call."""
        await (self.expire_caches or wait_until_caches_expire)()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection]:
        """Statements without the ORM, each a transaction of its own."""
        async with self._queues["driver"].turn():
            lent = await self._driver.raw_connection()
            connection: Any = lent.driver_connection
            try:
                yield connection
            finally:
                if not _is_idle(connection):
                    lent.invalidate()
                lent.close()

    def connections(self) -> dict[str, tuple[int, int, int]]:
        """Connections in use and idle, and how many wait for one, by pool."""
        pools: dict[str, Any] = {"session": self._engine.pool, "driver": self._driver.pool}
        return {
            name: (pool.checkedout(), pool.checkedin(), self._queues[name].num_waiting) for name, pool in pools.items()
        }

    async def close(self) -> None:
        """Close the pools."""
        for engine in (self._engine, self._driver):
            await engine.dispose()


async def driver_of(session: AsyncSession) -> AsyncConnection:
    """The driver's connection of a session's transaction, for statements that run often: one costs 0.1 ms there. Rows
    are tuples unless a cursor is asked for others; it is the session that commits."""
    lent = await (await session.connection()).get_raw_connection()
    connection: Any = lent.driver_connection
    return connection


class Database:
    """A worker's connections. Without `keeps_sessions` that of an ORM session is closed at its end: for processes of
    which there are many, and which seldom have one."""

    def __init__(self, url: str, *, pool_size: int = 4, keeps_sessions: bool = True) -> None:
        self.url = normalise_url(url)
        pooled: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0}
        self._engine = create_engine(self.url, **(pooled if keeps_sessions else {"poolclass": NullPool}))
        self._driver = create_engine(self.url, pool_size=pool_size, **_DRIVER_POOL)
        for engine in (self._engine, self._driver):
            _replace_dead_connections(engine)
            notice_lost_clients(engine)

    @contextmanager
    def session(self) -> Generator[Session]:
        """One transaction: committed at the end, rolled back when an exception passes through."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """Statements without the ORM, each a transaction of its own."""
        lent = self._driver.raw_connection()
        connection: Any = lent.driver_connection
        try:
            yield connection
        finally:
            if not _is_idle(connection):
                lent.invalidate()
            lent.close()

    def close(self) -> None:
        """Close the pools."""
        for engine in (self._engine, self._driver):
            engine.dispose()


def _is_idle(connection: Any) -> bool:
    """Whether the connection can be lent again; not when a statement was cancelled half way, or it is closed."""
    return connection.pgconn.transaction_status == TransactionStatus.IDLE


def _replace_dead_connections(engine: Engine) -> None:
    """Check whether PostgreSQL has closed the connection before a pooled connection is used again.

    A connection on which nothing was asked has nothing to read, unless the server closed it or died. Looking
    costs a system call of microseconds; the pool's own ping costs a round trip a transaction.
    """

    def look(driver_connection: Any, *_: object) -> None:
        connection = getattr(driver_connection, "driver_connection", driver_connection)
        if connection.closed or _is_readable(connection.fileno()):
            raise DisconnectionError("PostgreSQL ended an idle connection")

    pool: Pool = engine.pool
    event.listen(pool, "checkout", look)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
