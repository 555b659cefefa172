"""What the charts of a model show: figures of its checkpoints, in the order in which they were committed.

A new curve is a line in `CHARTS`. Where its figures are not the checkpoint's own (scores of held-out tasks, say), its
value is a scalar subquery on `CheckpointRow.id`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, SQLColumnExpression, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.pages.checkpoints.lineage import COMMIT_ORDER
from store.tables import CheckpointRow

MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its key in the answer, its name, and its value at a checkpoint."""

    key: str
    name: str
    value: SQLColumnExpression[Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure. `spread`: the key of a series that is drawn as a band around the first one."""

    title: str
    unit: str
    explanation: str
    series: tuple[Series, ...]
    spread: str | None = None

    @property
    def key(self) -> str:
        """Of its first series."""
        return self.series[0].key


def _metric(key: str, name: str, metric: str) -> Series:
    return Series(key, name, CheckpointRow.metrics[metric].as_float())


CHARTS = (
    Chart(
        "Reward",
        "mean ± standard deviation",
        "Over the trajectories of each step.",
        (Series("reward", "mean", CheckpointRow.mean_reward), _metric("reward_std", "spread", "reward_std")),
        spread="reward_std",
    ),
    Chart(
        "KL, sampler to trainer",
        "nats",
        "Near 0 while batches are fresh.",
        (_metric("kl", "k3", "kl_sampling_trainer_k3:mean"),),
    ),
    Chart("Entropy", "nats", "Falls slowly; a collapse ends learning.", (_metric("entropy", "mean", "entropy:mean"),)),
    Chart(
        "Clip fraction",
        "share",
        "Tokens that the loss clipped; empty for losses that do not.",
        (_metric("clip_fraction", "mean", "clip_fraction:mean"),),
    ),
    Chart(
        "Groups without spread",
        "share",
        "Groups whose rewards are all equal: they teach nothing.",
        (_metric("without_spread", "share", "groups_without_spread"),),
    ),
    Chart("Gradient norm", "2-norm", "Before clipping.", (_metric("grad_norm", "norm", "grad_norm"),)),
    Chart(
        "Throughput", "tokens/s", "Tokens computed by the trainer.", (_metric("tokens_per_s", "rate", "tokens_per_s"),)
    ),
)


async def points(session: AsyncSession, model_id: UUID, after: int, limit: int = MOST_POINTS) -> dict[str, Any]:
    """Figures of the steps after the first `after` of them, in commit order; at most `limit`.

    `names` and `steps` say which checkpoint a point is. Values that are missing or not finite are null.
    """
    series = [one for chart in CHARTS for one in chart.series]
    query = (
        select(CheckpointRow.name, CheckpointRow.step, *(one.value.label(one.key) for one in series))
        .where(is_step(model_id))
        .order_by(*COMMIT_ORDER)
    )
    rows: Sequence[Any] = (await session.execute(query.offset(after).limit(limit))).all()
    return {
        "names": [row[0] for row in rows],
        "steps": [row[1] for row in rows],
        "series": {one.key: [_short(row[2 + index]) for row in rows] for index, one in enumerate(series)},
    }


def is_step(model_id: UUID) -> ColumnElement[bool]:
    """SQL: a committed step of this model. The root of a fork is no step."""
    return (CheckpointRow.model_id == model_id) & (CheckpointRow.status == "committed") & (CheckpointRow.step > 0)


def last_known(values: Sequence[float | None]) -> float | None:
    """The newest value that there is."""
    return next((value for value in reversed(values) if value is not None), None)


def _short(value: float | None) -> float | None:
    """Five significant digits: more cannot be seen, and makes the answer twice as long."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
