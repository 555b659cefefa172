"""Tables as commands print them: the only way to print one (`tests/rules.py`), since what stands in them is what the
next command is given. At any width, an id or a name is printed whole and on one line.

    on a terminal    a box; columns of prose are folded until it fits; where it does not then, a line for each value
    in a pipe        a line for each row, values between tabs, for `cut` and `awk`
    with --json      an object with all fields of each item, whatever it is printed to

Each command that lists takes --json (`tests/unit/cli/test_lists.py`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_LEAST_PROSE = 16
"""Columns of characters that prose is folded into at least."""
_BORDER, _BORDERS = 1, 3
_CONTROL = dict.fromkeys([*range(32), 127], " ")


Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, with every field")]


class Listing:
    """Rows under headings. `prose`: the columns that are read, not copied, and may be folded."""

    def __init__(self, *headings: str, prose: Sequence[str] = (), title: str | None = None) -> None:
        assert set(prose) <= set(headings)
        self._headings, self._prose, self._title = headings, prose, title
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """One cell for each heading. What is a string is shown as it is, without markup."""
        texts = [Text(cell.translate(_CONTROL)) if isinstance(cell, str) else cell for cell in cells]
        assert len(texts) == len(self._headings)
        self._rows.append(texts)

    def plain(self) -> str:
        """Lines of values between tabs, under one with the headings."""
        lines = [[heading.replace(" ", "_") for heading in self._headings], *([t.plain for t in r] for r in self._rows)]
        title = f"{self._title}\n" if self._title else ""
        return title + "\n".join("\t".join(line) for line in lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(map(cell_len, column)) for column in self._columns()]
        least = [
            max(cell_len(heading), min(width, _LEAST_PROSE)) if heading in self._prose else width
            for heading, width in zip(self._headings, widths, strict=True)
        ]
        if sum(least) + _BORDERS * len(least) + _BORDER <= options.max_width:
            yield self._table(least)
        else:
            yield from self._records()

    def _columns(self) -> list[list[str]]:
        return [[heading, *(row[i].plain for row in self._rows)] for i, heading in enumerate(self._headings)]

    def _table(self, least: Sequence[int]) -> Table:
        table = Table(title=self._title)
        for heading, width in zip(self._headings, least, strict=True):
            table.add_column(heading, min_width=width, no_wrap=heading not in self._prose, overflow="fold")
        for row in self._rows:
            table.add_row(*row)
        return table

    def _records(self) -> RenderResult:
        if self._title:
            yield Text(self._title, style="italic")
        margin = max(map(cell_len, self._headings))
        for row in self._rows or [[Text("none")]]:
            for heading, cell in zip(self._headings, row, strict=False):
                if cell.plain:
                    yield Text.assemble((heading.ljust(margin), "bold"), "  ", cell, overflow="ignore", no_wrap=True)
            yield Text("")


def show(*listings: Listing) -> None:
    """Print them, as suits what they are printed to."""
    if sys.stdout.isatty():
        Console().print(*listings, sep="\n", crop=False)
    else:
        sys.stdout.write("\n\n".join(listing.plain() for listing in listings) + "\n")


def show_items(listing: Listing, items: Iterable[Any], *, as_json: bool, next_cursor: str | None = None) -> None:
    """Print a page of a list: as a table, or as JSON (`items`, and `next_cursor` or null)."""
    if as_json:
        print_json({"items": list(items), "next_cursor": next_cursor})
        return
    show(listing)
    if next_cursor:
        typer.echo(f"more: --cursor {next_cursor}", err=True)


def print_json(value: Any) -> None:
    """One line on stdout, in ASCII. Rows of pydantic and dataclasses are objects; ids and times are strings."""
    typer.echo(json.dumps(value, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (datetime, UUID)):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    from pydantic import BaseModel  # here, for most commands have no such rows

    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
