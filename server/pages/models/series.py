"""What the charts of a model show: figures of its checkpoints, in the order in which they were committed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.charts.curves import places_of, short
from server.pages.charts.figures import Figure, with_spreads
from server.pages.charts.settings import Across
from server.pages.checkpoints.lineage import COMMIT_ORDER, Lineage, Node
from store.tables import CheckpointRow

MOST_POINTS = 2000
_MOST_VALUES = 16_000
"""Of all figures together, so that an answer has a bound."""


def most_points(figures: Sequence[Figure]) -> int:
    """How many of the newest steps are drawn."""
    return min(MOST_POINTS, _MOST_VALUES // len(with_spreads(figures)))


async def points(
    session: AsyncSession, model_id: UUID, figures: Sequence[Figure], after: int, limit: int
) -> dict[str, Any]:
    """Figures of the steps after the first `after` of them, in commit order; at most `limit`.

    `names` and `steps` say which checkpoint a point is. Values that are missing or not finite are null.
    """
    drawn = with_spreads(figures)
    columns = [one.value.label(f"f{number}") for number, one in enumerate(drawn)]
    query = select(CheckpointRow.name, CheckpointRow.step, *columns).where(is_step(model_id)).order_by(*COMMIT_ORDER)
    rows: Sequence[Any] = (await session.execute(query.offset(after).limit(limit))).all()
    return {
        "names": [row[0] for row in rows],
        "steps": [row[1] for row in rows],
        "series": {one.key: [_finite(row[2 + number]) for row in rows] for number, one in enumerate(drawn)},
    }


def places(lineage: Lineage, across: Across, first: int) -> list[float] | None:
    """Where the steps from the `first` on are; None where their numbers or their order say it."""
    if across == "time":
        return places_of(lineage.steps, "time")[first:]
    if across == "tokens":
        return _tokens_up_to(lineage)[first:]
    return None


def is_step(model_id: UUID) -> ColumnElement[bool]:
    """SQL: a committed step of this model. The root of a fork is no step."""
    return (CheckpointRow.model_id == model_id) & (CheckpointRow.status == "committed") & (CheckpointRow.step > 0)


def last_known(values: Sequence[float | None]) -> float | None:
    """The newest value that there is."""
    return next((value for value in reversed(values) if value is not None), None)


def _tokens_up_to(lineage: Lineage) -> list[float]:
    """Of each step, with those that lead to it."""
    totals = dict[UUID, int]()
    for node in lineage.steps:
        totals[node.id] = node.num_tokens + _total_of_parent(totals, node)
    return [totals[node.id] for node in lineage.steps]


def _total_of_parent(totals: dict[UUID, int], node: Node) -> int:
    return totals.get(node.parent_id, 0) if node.parent_id is not None else 0


def _finite(value: float | None) -> float | None:
    return short(value) if value is not None and math.isfinite(value) else None
