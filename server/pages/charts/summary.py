"""The curves as a table: newest, lowest and highest value of each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.pages.charts.curves import Curve
from server.pages.charts.figures import Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure of a curve; None: it has none."""

    newest: float | None = None
    low: float | None = None
    high: float | None = None


def summary(
    curves: Sequence[Curve], figures: Sequence[Figure], values: Mapping[str, Sequence[float | None]]
) -> list[tuple[Figure, list[Cell]]]:
    """A row for each figure, a cell for each curve."""
    return [
        (figure, [_cell([values[node.id][number] for node in curve.steps]) for curve in curves])
        for number, figure in enumerate(figures)
    ]


def _cell(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    return Cell(known[-1], min(known), max(known)) if known else Cell()
