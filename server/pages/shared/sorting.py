"""How a list is sorted: `reward` is ascending, `-reward` descending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression

from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Sorting:
    """A column of a list, and which way."""

    name: str
    is_descending: bool

    def toggled(self, name: str, *, high_first: bool = False) -> str:
        """What the heading of a column links to: its other way round if the list is sorted by it, else its first."""
        is_descending = not self.is_descending if name == self.name else high_first
        return f"-{name}" if is_descending else name

    def aria(self, name: str) -> str:
        """Of the heading: `ascending`, `descending` or `none`."""
        return "none" if name != self.name else "descending" if self.is_descending else "ascending"

    def order(self, columns: Mapping[str, SQLColumnExpression[Any]]) -> ColumnElement[Any]:
        """SQL; what has no value comes last."""
        column = columns[self.name]
        return (column.desc() if self.is_descending else column.asc()).nulls_last()


def sorting(said: str, columns: Mapping[str, Any], default: str) -> Sorting:
    """As an address says it; empty: the default. Raises InvalidRequest for a column that the list has not."""
    wanted = said or default
    name = wanted.removeprefix("-")
    if name not in columns:
        raise InvalidRequest(f"sort must be one of {', '.join(columns)}, with a - before it for descending")
    return Sorting(name, wanted.startswith("-"))
