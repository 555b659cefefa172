"""Whether this release runs against the schema that a database has.

Migrations are numbered, and expand the schema: a release runs against every schema from its own newest migration on,
so that two releases may run side by side. A migration that takes something away writes into `contractions` the oldest
migration that a release must know from then on (docs/upgrades.md).

A plane may start while a migration contracts. The migration locks `contractions` against reading before it looks for
planes, until it commits; a plane reads `contractions` in the transaction that writes its row. So one comes first:
either the migration finds the plane's row, or the plane finds the contraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg.rows import namedtuple_row
from sqlalchemy import text
from sqlalchemy.orm import Session

import migrations
from store.database import Connection, normalise_url, psycopg_dsn
from wire.loaded import version_of

log = structlog.get_logger(__name__)

_HAS = """
    select to_regclass('alembic_version') is not null as schema, to_regclass('contractions') is not null as contractions
"""
_REVISION = "select max(version_num) from alembic_version"
_OLDEST = "select oldest_revision, oldest_release from contractions order by oldest_revision desc limit 1"


class IncompatibleSchema(ValueError):
    """The database's schema lacks what this release needs, or has lost what it uses."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Of a database. revision: its newest migration; None for a database without tables. oldest_revision: the newest
    migration that a release must know to run against it, with the first such release; None: it was never contracted."""

    revision: str | None
    oldest_revision: str | None = None
    oldest_release: str | None = None

    def require(self, known: str) -> None:
        """Raises IncompatibleSchema for a release whose newest migration is `known`."""
        if self.revision is None:
            raise IncompatibleSchema("the database has no tables of Headway yet: run `headway migrate`")
        self.require_not_contracted(known)
        if self.revision < known:
            raise IncompatibleSchema(
                f"the database has schema {self.revision}, and this Headway ({version_of('headway')}) needs {known}: "
                "run `headway migrate` of this release first; older ones may go on meanwhile"
            )

    def require_not_contracted(self, known: str) -> None:
        """Raises IncompatibleSchema for a release that the schema has no place for any more."""
        if self.oldest_revision is not None and known < self.oldest_revision:
            raise IncompatibleSchema(
                f"the database has schema {self.revision}, which releases before {self.oldest_release} cannot use; "
                f"this Headway is {version_of('headway')}, with schema {known}: start a later one"
            )


@cache
def newest_revision() -> str:
    """The newest migration that this release knows, by the names of their files: Alembic would import them all."""
    return max(
        path.name.partition("_")[0] for path in (Path(migrations.__file__).parent / "versions").glob("[0-9]*.py")
    )


def schema_of(connection: Connection) -> Schema:
    """As the database has it now."""
    has_schema, has_contractions = _row(connection, _HAS) or (False, False)
    revision = (_row(connection, _REVISION) or (None,))[0] if has_schema else None
    oldest = (_row(connection, _OLDEST) or (None, None)) if has_contractions else (None, None)
    return Schema(revision, *oldest)


def require_schema(connection: Connection) -> None:
    """What a plane does before anything else. Raises IncompatibleSchema."""
    schema_of(connection).require(newest_revision())


def require_schema_of(url: str) -> None:
    """As `require_schema`; a database that does not answer is left for later, as by servers, which wait for it."""
    try:
        schema = read_schema(url)
    except psycopg.OperationalError:
        log.warning("schema_unknown", reason="the database does not answer yet")
    else:
        schema.require(newest_revision())


def refuse_contracted(session: Session) -> None:
    """In the transaction that registers a plane. Raises IncompatibleSchema where the schema was contracted beyond this
    release since the plane looked; waits for a migration that is about to."""
    revision = session.execute(text(_REVISION)).scalar_one()
    oldest = session.execute(text(_OLDEST)).first() or (None, None)
    Schema(revision, *oldest).require_not_contracted(newest_revision())


def read_schema(url: str) -> Schema:
    """The schema of a database, over a connection of its own."""
    dsn = psycopg_dsn(normalise_url(url))
    with psycopg.connect(dsn, autocommit=True, row_factory=namedtuple_row) as connection:
        return schema_of(connection)


def _row(connection: Connection, query: str) -> Any:
    return connection.execute(query.encode()).fetchone()
