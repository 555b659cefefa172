"""Curves as CSV, a line for each step."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from server.pages.charts.curves import Curve, places_of
from server.pages.charts.figures import Figure

_BATCH = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(
    curves: Sequence[Curve], figures: Sequence[Figure], values: Mapping[str, Sequence[float | None]]
) -> Iterator[str]:
    """The file in pieces. A figure that is not on record is an empty cell."""
    known = ("curve", "model_id", "checkpoint_id", "checkpoint", "step", "committed_at", "tokens")
    yield _text([[*known, *(plain(one.metric) for one in figures)]])
    for curve in curves:
        rows = _rows(curve, values)
        for begin in range(0, len(curve.steps), _BATCH):
            yield _text(rows[begin : begin + _BATCH])


def plain(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _rows(curve: Curve, values: Mapping[str, Sequence[float | None]]) -> list[list[object]]:
    tokens = places_of(curve.steps, "tokens")
    return [
        [
            plain(curve.label),
            curve.model.id,
            node.id,
            node.name,
            node.step,
            node.committed_at.isoformat() if node.committed_at is not None else "",
            total,
            *("" if value is None else value for value in values[node.id]),
        ]
        for node, total in zip(curve.steps, tokens, strict=True)
    ]


def _text(rows: Iterable[Iterable[object]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
