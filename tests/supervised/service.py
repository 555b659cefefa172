"""A whole Headway, as tests that disturb it know it, wherever its planes run: `tests.chaos`, `tests.fleet`."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from cli.commands.keys import create_key
from store.catalog import ensure_base
from store.database import Database
from store.migrations import upgrade

BASE = "tiny-arith"


class StoredFolder(Protocol):
    """What is asked of a folder of checkpoints: a `Path`, or what stands in for one."""

    def __truediv__(self, name: str, /) -> StoredFolder: ...
    def exists(self) -> bool: ...
    def read_bytes(self) -> bytes: ...


class Service(ABC):
    """`_prepare` makes its database, which has a base, an administrator's key and a runner's then."""

    start_s: float
    """Within which PostgreSQL answers again, and all planes are up."""
    base_id: UUID
    database: Database
    key: str
    runner_key: str

    def __init__(self, base: Path) -> None:
        """base: the folder of its weights."""
        self._base = base
        self.sampler_token = secrets.token_urlsafe(16)

    @property
    @abstractmethod
    def url(self) -> str:
        """Of a server, for one call: the next may be another's."""

    @property
    @abstractmethod
    def checkpoints(self) -> StoredFolder:
        """Where the trainer publishes."""

    @abstractmethod
    def connect(self) -> psycopg.Connection:
        """A connection of the tests. Raises psycopg.OperationalError while PostgreSQL does not answer."""

    @abstractmethod
    def logs(self) -> str:
        """The end of what each plane has logged."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def query(self, statement: str, **values: Any) -> list[Any]:
        """Rows, from a connection of its own, as soon as PostgreSQL answers."""
        deadline = time.monotonic() + self.start_s
        while True:
            try:
                with self.connect() as connection:
                    cursor = connection.cursor(row_factory=namedtuple_row)
                    return cursor.execute(statement.encode(), values).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Raises AssertionError with the logs if it does not come true within the time of a start."""
        deadline = time.monotonic() + self.start_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {self.start_s} s: {what}\n{self.logs()}"
            time.sleep(0.1)

    def _prepare(self, url: str, keys: str) -> None:
        """keys: what their names begin with."""
        upgrade(url)
        self.database = Database(url)
        with self.database.session() as session:
            self.base_id = ensure_base(session, BASE, str(self._base.resolve()))
        self.key = create_key(url, team="default", name=keys, role="admin")
        self.runner_key = create_key(url, team="default", name=f"{keys} runners", role="runner")
