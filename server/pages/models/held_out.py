"""Held-out scores beside the curves of a model: a chart for each benchmark, of those that were scored last.

A score comes when its checkpoint is old, so all of them are sent each time, by the names of their checkpoints.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.shared.formats import figure
from store.tables import CheckpointRow, EvalRow

MOST_BENCHMARKS = 4
_MOST_SCORES = 500
"""Of all benchmarks together, the newest."""


@dataclass(frozen=True, slots=True)
class HeldOutChart:
    """A benchmark's chart. `latest`: its newest score; `base`: that of the base weights, if they were scored."""

    benchmark: str
    higher_is_better: bool
    latest: float
    base: float | None = None
    unit: str = "score"
    spread: None = None

    @property
    def key(self) -> str:
        """In the answer of the series, and in ids."""
        return _key(self.benchmark)

    @property
    def title(self) -> str:
        """As a heading."""
        return f"Held-out: {self.benchmark}"

    @property
    def explanation(self) -> str:
        """What stands below the chart."""
        better = "Higher is better." if self.higher_is_better else "Lower is better."
        return better if self.base is None else f"{better} The base weights scored {figure(self.base)}."


async def held_out_charts(session: AsyncSession, model_id: UUID) -> list[HeldOutChart]:
    """By name, of the benchmarks that were scored last."""
    newest = (
        select(EvalRow.benchmark, func.max(EvalRow.created_at).label("at"))
        .where(EvalRow.model_id == model_id)
        .group_by(EvalRow.benchmark)
        .order_by(func.max(EvalRow.created_at).desc(), EvalRow.benchmark)
        .limit(MOST_BENCHMARKS)
        .subquery()
    )
    query = (
        select(EvalRow.benchmark, EvalRow.checkpoint_id, EvalRow.score, EvalRow.higher_is_better)
        .join(newest, newest.c.benchmark == EvalRow.benchmark)
        .where(EvalRow.model_id == model_id, (EvalRow.created_at == newest.c.at) | EvalRow.checkpoint_id.is_(None))
        .order_by(EvalRow.benchmark, EvalRow.created_at)
    )
    charts, bases = dict[str, HeldOutChart](), dict[str, float]()
    for benchmark, checkpoint_id, score, higher_is_better in await session.execute(query):
        if checkpoint_id is None:
            bases[benchmark] = score
        charts[benchmark] = HeldOutChart(benchmark, higher_is_better, score, bases.get(benchmark))
    return list(charts.values())


async def held_out_scores(session: AsyncSession, model_id: UUID) -> dict[str, list[tuple[str, float]]]:
    """Name of the checkpoint and score, oldest first, by the key of the chart. The newest score of each counts."""
    newest = (
        select(EvalRow.benchmark, CheckpointRow.name, EvalRow.score, EvalRow.created_at, EvalRow.id)
        .join(CheckpointRow, CheckpointRow.id == EvalRow.checkpoint_id)
        .where(EvalRow.model_id == model_id)
        .order_by(EvalRow.created_at.desc(), EvalRow.id)
        .limit(_MOST_SCORES)
        .subquery()
    )
    scored = func.json_build_array(newest.c.name, newest.c.score)
    listed = func.json_agg(aggregate_order_by(scored, newest.c.created_at, newest.c.id.desc()))
    rows = await session.execute(select(newest.c.benchmark, listed).group_by(newest.c.benchmark))
    return {_key(benchmark): scores for benchmark, scores in rows}


def _key(benchmark: str) -> str:
    return f"held-{hashlib.sha256(benchmark.encode()).hexdigest()[:12]}"
