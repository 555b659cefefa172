"""PostgreSQL, as it is reached from here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from cli.doctor.clocks import Asked, clock_finding
from cli.doctor.finding import Finding, State
from store.database import normalise_url, psycopg_dsn
from store.schema import IncompatibleSchema, newest_revision, schema_of
from store.tables import Base

PART = "PostgreSQL"
_CONNECT_S = 5
_PINGS = 5
_SLOW_MS = 20.0
_OLDEST_SERVER = 14
_GRANT = "grant select, insert, update and delete on all tables to this user"

_ABOUT = """
    select current_setting('server_version') as version, current_setting('server_version_num')::int / 10000 as major,
        pg_is_in_recovery() or current_setting('transaction_read_only')::bool as is_read_only,
        current_setting('max_connections')::int as max_connections,
        (select count(*) from pg_stat_activity where backend_type = 'client backend') as num_connections,
        has_schema_privilege(current_schema(), 'create') as may_migrate
"""
_TLS = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
_CLOCK = "select extract(epoch from clock_timestamp())::float"
_FORBIDDEN = """
    select relname from pg_class
    where relnamespace = current_schema()::regnamespace and relname = any(%(tables)s) and relkind = 'r' and not (
        has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert')
        and has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete')
    )
    order by 1
"""


def check_database(url: str) -> list[Finding]:
    """What there is to say of it; one finding if it cannot be reached."""
    dsn = psycopg_dsn(normalise_url(url))
    begun = time.perf_counter()
    try:
        with psycopg.connect(
            dsn, autocommit=True, row_factory=namedtuple_row, connect_timeout=_CONNECT_S
        ) as connection:
            connected_ms = 1000 * (time.perf_counter() - begun)
            return [*_examine(connection, connected_ms)]
    except psycopg.Error as error:
        remedy = "check HEADWAY_DATABASE_URL, and what lies between here and there"
        return [Finding(PART, "reachable", State.NOT_OK, str(error).partition("\n")[0], remedy)]


def _examine(connection: Any, connected_ms: float) -> Iterator[Finding]:
    yield _reachable(connection, connected_ms)
    about = connection.execute(_ABOUT).fetchone()
    yield _version(about)
    yield _tls(connection)
    yield _schema(connection)
    yield _rights(connection, about)
    yield _connections(about)
    asked_at = time.time()
    (there,) = connection.execute(_CLOCK).fetchone()
    yield clock_finding(PART, Asked.since(asked_at), there)


def _reachable(connection: Any, connected_ms: float) -> Finding:
    pings: list[float] = []
    for _ in range(_PINGS):
        begun = time.perf_counter()
        connection.execute("select 1")
        pings.append(1000 * (time.perf_counter() - begun))
    found = f"connected in {connected_ms:.0f} ms, a round trip takes {median(pings):.1f} ms"
    if median(pings) < _SLOW_MS:
        return Finding(PART, "reachable", State.OK, found)
    return Finding(PART, "reachable", State.NOTE, found, "each call takes several: put planes nearer to PostgreSQL")


def _version(about: Any) -> Finding:
    if about.is_read_only:
        found = f"PostgreSQL {about.version}, which takes no writes (a standby, or read-only)"
        return Finding(PART, "version", State.NOT_OK, found, "connect to the primary")
    if about.major < _OLDEST_SERVER:
        remedy = f"upgrade it to {_OLDEST_SERVER} or later"
        return Finding(PART, "version", State.NOT_OK, f"PostgreSQL {about.version}", remedy)
    return Finding(PART, "version", State.OK, f"PostgreSQL {about.version}")


def _tls(connection: Any) -> Finding:
    if connection.info.host.startswith("/"):
        return Finding(PART, "encryption", State.OK, "a Unix socket of this machine")
    row = connection.execute(_TLS).fetchone()
    if row is not None and row.ssl:
        return Finding(PART, "encryption", State.OK, f"{row.version}, sslmode={_sslmode(connection)}")
    remedy = "add sslmode=verify-full and sslrootcert to the URL where the network is not yours alone"
    return Finding(PART, "encryption", State.NOTE, "none", remedy)


def _sslmode(connection: Any) -> str:
    return connection.info.get_parameters().get("sslmode", "prefer")


def _schema(connection: Any) -> Finding:
    try:
        schema = schema_of(connection)
        schema.require(newest_revision())
    except psycopg.errors.InsufficientPrivilege as error:
        return Finding(PART, "schema", State.NOT_OK, str(error).partition("\n")[0], _GRANT)
    except IncompatibleSchema as error:
        what, _, remedy = str(error).rpartition(": ")
        return Finding(PART, "schema", State.NOT_OK, what, remedy)
    later = "" if schema.revision == newest_revision() else f", of a later release than this one ({newest_revision()})"
    return Finding(PART, "schema", State.OK, f"{schema.revision}{later}")


def _rights(connection: Any, about: Any) -> Finding:
    forbidden = [row.relname for row in connection.execute(_FORBIDDEN, {"tables": list(Base.metadata.tables)})]
    if forbidden:
        found = f"may not read and write {', '.join(forbidden)}"
        return Finding(PART, "rights", State.NOT_OK, found, _GRANT)
    if about.may_migrate:
        return Finding(PART, "rights", State.OK, "reads and writes every table, and may migrate")
    return Finding(PART, "rights", State.OK, "reads and writes every table; `headway migrate` needs another user")


def _connections(about: Any) -> Finding:
    found = f"{about.num_connections} of {about.max_connections} are taken"
    if about.num_connections < 0.9 * about.max_connections:
        return Finding(PART, "connections", State.OK, found)
    return Finding(PART, "connections", State.NOT_OK, found, "raise max_connections; a server takes up to seventy")
