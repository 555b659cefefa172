"""Which server processes live, so that everybody can find out whether a caller still waits for an answer.

A process draws a number and holds an advisory lock of that number on the connection on which it listens. PostgreSQL
gives the lock back when the process dies, however it dies. A call is numbered by its process and a count.

Each has a row in `servers` besides, which outlives it: whoever finds no other row knows that no other process keeps
lookups (`store.cache_acknowledgements`). A process keeps them only while it has renewed its row within LISTED_FOR_S;
others remove a row only after UNSEEN_FOR_S.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import structlog
from psycopg.types.json import Jsonb

from store.database import AsyncConnection
from store.database_clock import DatabaseClock
from store.keepalives import SERVER
from store.schema import newest_revision

log = structlog.get_logger(__name__)

_LOCK = 0x68770001  # "hw"

_ANNOUNCE = f"select pg_advisory_lock_shared(%(number)s::int, {_LOCK})"

PRESENT = f"""
    array(
        select classid::bigint from pg_locks
        where locktype = 'advisory' and objid = {_LOCK} and objsubid = 2
            and database = (select oid from pg_database where datname = current_database())
    )
"""  # noqa: S608 - put together from a constant
"""SQL: the numbers of all processes that are there."""

LISTED_FOR_S = 30.0
UNSEEN_FOR_S = 60.0

# With those that are gone by now, however they went: nobody else looks after their rows. Looks for contractions in the
# same transaction, as `store.schema` says.
_DESCRIBE = f"""
    with gone as (
        delete from servers
        where number <> %(number)s and number <> all({PRESENT})
            and seen_at < clock_timestamp() - interval '{UNSEEN_FOR_S} s'
    )
    insert into servers (number, host, pid, details)
    select %(number)s, %(host)s, %(pid)s,
        %(details)s || jsonb_build_object('database', 'PostgreSQL ' || current_setting('server_version'))
    where not exists (select from contractions where oldest_revision > %(schema)s)
    on conflict (number) do update set details = excluded.details, seen_at = clock_timestamp()
    returning details, clock_timestamp()
"""  # noqa: S608

_LEAVE = "delete from servers where number = %(number)s"


async def count_processes(connection: AsyncConnection) -> int:
    """How many server processes live."""
    row = await (await connection.execute(f"select cardinality({PRESENT})".encode())).fetchone()
    return row[0] if row else 0


class Presence:
    """This process, as others see it while its connection stands."""

    def __init__(self) -> None:
        self.number = 1 + secrets.randbelow(2**31 - 1)
        self.details: dict[str, Any] | None = None
        """What it serves with, for people who look."""
        self.when_contracted: Callable[[], None] = _nothing
        """Called when the database's schema was contracted beyond this release, which must end."""
        self.clock = DatabaseClock()
        self._calls = itertools.count(1)
        self._listed_at = float("-inf")

    @property
    def is_listed(self) -> bool:
        """Whether every other process finds this one's row."""
        return time.monotonic() - self._listed_at < LISTED_FOR_S

    def new_call(self) -> int:
        """A number for somebody who is about to wait: its upper 32 bits are the process."""
        return self.number << 32 | next(self._calls) & 0xFFFFFFFF

    async def announce(self, connection: AsyncConnection) -> None:
        """Be there until the connection ends. (Shared: the last connection may not have ended yet for PostgreSQL.)"""
        await connection.execute(_ANNOUNCE.encode(), {"number": self.number})
        await connection.execute(SERVER)
        if self.details is not None and (described := await self.renew(connection)):
            log.info("server_ready", **described)

    async def renew(self, connection: AsyncConnection) -> dict[str, Any]:
        """Be listed for LISTED_FOR_S from now on; with what it serves, as it is written down. Again every so often."""
        asked_at = time.monotonic()
        who = {"number": self.number, "host": socket.gethostname(), "pid": os.getpid(), "schema": newest_revision()}
        found = await connection.execute(_DESCRIBE.encode(), {**who, "details": Jsonb(self.details or {})})
        row = await found.fetchone()
        if row is None:
            self._listed_at = float("-inf")
            log.error("schema_contracted", reason="a later release took away what this one uses: start a later one")
            self.when_contracted()
            return {}
        self._listed_at = asked_at
        self.clock.set(row[1], asked_at)
        return row[0]

    async def leave(self, connection: AsyncConnection) -> None:
        """Be listed no more. What lookups of this process are kept must not be used any longer."""
        self._listed_at = float("-inf")
        await connection.execute(_LEAVE.encode(), {"number": self.number})


def _nothing() -> None:
    pass
