"""One lock between those who delete files and those who read what rows name: backup and verify.

An advisory lock of PostgreSQL, held by a connection for as long as the work takes. The collector takes it exclusively
and does not wait for it; readers share it and wait for a collector to end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from store.database import Connection, Database
from wire.errors import Conflict

_LOCK = 0x68775F6763  # "hw_gc"

StillHeld = Callable[[], None]
"""Raises psycopg.OperationalError once the connection that holds the lock is gone, and the lock with it."""


@contextmanager
def deleting_files(database: Database) -> Generator[StillHeld]:
    """Nobody else deletes, and nobody reads on the strength of rows, until the block ends.

    Raises Conflict when another collector, a backup or a verification is under way.
    """
    with database.connection() as connection:
        if not _ask(connection, "pg_try_advisory_lock"):
            raise Conflict("another collection, a backup or a verification is under way; try again when it has ended")
        try:
            yield lambda: _probe(connection)
        finally:
            _release(connection, "pg_advisory_unlock")


@contextmanager
def keeping_files(database: Database) -> Generator[None]:
    """No file that a row names is deleted until the block ends. Waits for a collector that is at work."""
    with database.connection() as connection:
        _ask(connection, "pg_advisory_lock_shared")
        try:
            yield
        finally:
            _release(connection, "pg_advisory_unlock_shared")


def _ask(connection: Connection, function: str) -> bool:
    (row,) = connection.execute(f"select {function}({_LOCK}) as got".encode())
    return row.got is not False


def _probe(connection: Connection) -> None:
    connection.execute("select 1")


def _release(connection: Connection, function: str) -> None:
    if not connection.closed:
        _ask(connection, function)
