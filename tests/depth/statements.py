"""Which statements a process sends to PostgreSQL, and how many rows of which tables each of them reads."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

_PLANNED = ("select", "with", "insert", "update", "delete")
_NOT_AGAIN = ("advisory", "pg_notify", "nextval")


@dataclass(frozen=True, slots=True)
class Statement:
    """As it was sent. `cause`: what was asked of the process then."""

    cause: str
    text: str
    values: Any

    @property
    def is_planned(self) -> bool:
        """Whether PostgreSQL can explain it, and may carry it out again."""
        plain = self.text.strip().lower()
        return plain.startswith(_PLANNED) and not any(word in plain for word in _NOT_AGAIN)


class Recorded:
    """Statements in the order in which they came. `cause`: what the next ones are put down to; empty: nothing."""

    def __init__(self) -> None:
        self.cause = ""
        self._statements = list[Statement]()

    def add(self, query: Any, values: Any) -> None:
        """Note one."""
        text = query.decode() if isinstance(query, bytes) else query
        if self.cause and isinstance(text, str):
            self._statements.append(Statement(self.cause, text, values))

    @property
    def distinct(self) -> Iterable[Statement]:
        """Those that can be explained, one of each text and cause."""
        return {(one.cause, one.text): one for one in self._statements if one.is_planned}.values()


@contextmanager
def recorded_statements() -> Generator[Recorded]:
    """All that this process sends while the block runs, through whichever connection."""
    recorded = Recorded()
    with pytest.MonkeyPatch.context() as patch:
        for kind in (psycopg.AsyncCursor, psycopg.Cursor):
            _record(patch, kind, recorded)
        yield recorded


def _record(patch: pytest.MonkeyPatch, kind: Any, recorded: Recorded) -> None:
    really = kind.execute

    def execute(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
        recorded.add(query, params)
        return really(cursor, query, params, **options)

    patch.setattr(kind, "execute", execute)


def rows_read(connection: psycopg.Connection[Any], statement: Statement) -> dict[str, int]:
    """Of each table, whether the rows were of use or not. The statement is carried out, and taken back.

    Where an index can be used, it is: which one the planner would prefer depends on what it has seen of the tables.
    Nothing for a statement that cannot be carried out twice.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("set local enable_seqscan = off")
            query = b"explain (analyze, format json) " + statement.text.encode()
            (found,) = connection.execute(query, statement.values).fetchone() or ()
    except psycopg.errors.IntegrityError:
        return {}
    (whole,) = json.loads(found) if isinstance(found, str) else found
    read = dict[str, int]()
    for node in _nodes(whole["Plan"]):
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            read[node["Relation Name"]] = read.get(node["Relation Name"], 0) + _rows(node)
    return read


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]


def _rows(scan: dict[str, Any]) -> int:
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(sum(scan.get(what, 0) * scan["Actual Loops"] for what in looked_at))
