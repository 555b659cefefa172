"""Which statements of a migration may hurt planes of the release before, which run against the schema that it makes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from types import ModuleType

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from store.migrations import alembic_config

RULE_SINCE = "0021"
_TABLE = r'"?(?P<table>\w+)"?'
_QUIET = re.compile(r"(set |begin|commit|comment on )")
_CREATE_TABLE = re.compile(rf"create table (?:if not exists )?{_TABLE}")
_ADD_COLUMN = re.compile(rf"alter table {_TABLE} add column (?P<column>.*)", re.DOTALL)
_INDEX = re.compile(rf"create (?P<unique>unique )?index (?P<quietly>concurrently )?\S+ on {_TABLE}")
_DROP_INDEX = re.compile(r"drop index concurrently if exists ")
_INTO = re.compile(rf"(?:insert into|alter table|update) {_TABLE}")


def migrations_under_the_rule() -> list[ModuleType]:
    scripts = ScriptDirectory.from_config(alembic_config("postgresql:///"))
    return [s.module for s in reversed([*scripts.walk_revisions()]) if s.revision >= RULE_SINCE]


def harmful(migration: ModuleType) -> list[str]:
    """Statements that are neither known to be harmless to older releases, nor listed in the migration's `SAFE_BESIDE`
    (their beginning, and why), nor in a migration that calls `contract`."""
    if "contract" in vars(migration):
        return []
    listed: dict[str, str] = getattr(migration, "SAFE_BESIDE", {})
    new_tables: set[str] = set()
    found = list[str]()
    for statement in statements_of(migration):
        lower = " ".join(statement.lower().split())
        if created := _CREATE_TABLE.match(lower):
            new_tables.add(created["table"])
        elif not (_is_harmless(lower, new_tables) or any(lower.startswith(begin.lower()) for begin in listed)):
            found.append(statement)
    return found


def statements_of(migration: ModuleType) -> Iterator[str]:
    written = io.StringIO()
    options = {"as_sql": True, "output_buffer": written}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with context.begin_transaction(), Operations.context(context):
        migration.upgrade()
    return (each.strip() for each in written.getvalue().split(";\n") if each.strip())


def _is_harmless(statement: str, new_tables: set[str]) -> bool:
    if _QUIET.match(statement) or _DROP_INDEX.match(statement):
        return True
    if index := _INDEX.match(statement):
        return index["table"] in new_tables or bool(index["quietly"] and not index["unique"])
    if (into := _INTO.match(statement)) and into["table"] in new_tables:
        return True
    added = _ADD_COLUMN.match(statement)
    return bool(added) and ("not null" not in added["column"] or "default" in added["column"])
