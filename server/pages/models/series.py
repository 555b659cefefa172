"""What the charts of a model show: figures of its checkpoints, in the order in which they were committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, SQLColumnExpression, cast, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.charts.curves import places_of
from server.pages.charts.figures import Figure, finite, with_spreads
from server.pages.charts.settings import Across
from server.pages.checkpoints.lineage import COMMIT_ORDER, Lineage, Node
from store.tables import CheckpointRow

MOST_POINTS = 2000
PLACED = ("time", "tokens")
"""Where over these, points have places of their own; their numbers or their order say it over others."""
_MOST_VALUES = 16_000
"""Of all figures together, so that an answer has a bound."""


def most_points(figures: Sequence[Figure]) -> int:
    """How many of the newest steps are drawn."""
    return min(MOST_POINTS, _MOST_VALUES // len(with_spreads(figures)))


async def num_steps(session: AsyncSession, model_id: UUID) -> int:
    """How many steps there are."""
    return await session.scalar(select(func.count()).select_from(CheckpointRow).where(is_step(model_id))) or 0


async def points(session: AsyncSession, model_id: UUID, figures: Sequence[Figure], newest: int) -> dict[str, Any]:
    """Figures of so many of the newest steps, in commit order.

    `names` and `steps` say which checkpoint a point is. Values that are missing or not finite are null; they have five
    significant digits. PostgreSQL makes the lists: 2,000 points of eight figures would be 2,000 rows.
    """
    drawn = with_spreads(figures)
    columns = [_short(finite(one.value)).label(f"f{number}") for number, one in enumerate(drawn)]
    latest = select(CheckpointRow.name, CheckpointRow.step, *COMMIT_ORDER[::2], *columns).where(is_step(model_id))
    rows = latest.order_by(*(column.desc() for column in COMMIT_ORDER)).limit(newest).subquery()
    order = rows.c.committed_at, rows.c.step, rows.c.id
    listed = ["name", "step", *(f"f{number}" for number in range(len(drawn)))]
    lists = [func.coalesce(func.json_agg(aggregate_order_by(rows.c[name], *order)), text("'[]'")) for name in listed]
    found = list[Any]((await session.execute(select(*lists))).one())
    series = {one.key: values for one, values in zip(drawn, found[2:], strict=True)}
    return {"names": found[0], "steps": found[1], "series": series}


def places(lineage: Lineage, across: Across, first: int) -> list[float]:
    """Where the steps from the `first` on are."""
    if across == "time":
        return places_of(lineage.steps, "time")[first:]
    return _tokens_up_to(lineage)[first:]


def is_step(model_id: UUID) -> ColumnElement[bool]:
    """SQL: a committed step of this model. The root of a fork is no step."""
    return (CheckpointRow.model_id == model_id) & (CheckpointRow.status == "committed") & (CheckpointRow.step > 0)


def _tokens_up_to(lineage: Lineage) -> list[float]:
    """Of each step, with those that lead to it."""
    totals = dict[str, int]()
    for node in lineage.steps:
        totals[node.id] = node.num_tokens + _total_of_parent(totals, node)
    return [totals[node.id] for node in lineage.steps]


def _total_of_parent(totals: dict[str, int], node: Node) -> int:
    return totals.get(node.parent_id, 0) if node.parent_id is not None else 0


def _short(value: SQLColumnExpression[Any]) -> SQLColumnExpression[Any]:
    """SQL: the value with five significant digits: more cannot be seen, and makes the answer twice as long."""
    return cast(func.to_char(value, "9.9999EEEE"), Float)
