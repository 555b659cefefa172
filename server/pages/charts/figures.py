"""What can be drawn over the steps of models: the metrics of their checkpoints, a client's own ones among them.

A figure is asked for by `metric`: a name of `docs/metrics.md`, a column such as `learning_rate`, or whatever name a
client gave to a metric of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Float, SQLColumnExpression, case, cast, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import CheckpointRow, ModelRow

_MOST_NAMES = 300
_NEWEST = 1000
"""Checkpoints of a model in which names of figures are looked for."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a checkpoint. `key`: its name in answers. `spread`: the metric drawn as a band around it."""

    key: str
    metric: str
    title: str
    unit: str
    explanation: str
    value: SQLColumnExpression[Any] = field(compare=False)
    spread: str | None = None


def _number(metric: str) -> SQLColumnExpression[Any]:
    """SQL: the metric; null where it is no number."""
    found = CheckpointRow.metrics[metric]
    return case((func.jsonb_typeof(found) == "number", cast(found.astext, Float)))


def _of_metric(key: str, metric: str, title: str, unit: str, explanation: str) -> Figure:
    return Figure(key, metric, title, unit, explanation, _number(metric))


def finite(value: SQLColumnExpression[Any]) -> SQLColumnExpression[Any]:
    """SQL: the same, and null for what is no number or has no end. In PostgreSQL NaN is more than infinity."""
    number = cast(value, Float)
    return case(((number > literal("-infinity", Float)) & (number < literal("infinity", Float)), number))


STANDARD = (
    Figure(
        "reward",
        "reward_mean",
        "Reward",
        "mean ± std",
        "Over the trajectories of each step.",
        CheckpointRow.mean_reward,
        spread="reward_std",
    ),
    _of_metric(
        "kl", "kl_sampling_trainer_k3:mean", "KL, sampler to trainer", "nats", "Near 0 while batches are fresh."
    ),
    _of_metric("entropy", "entropy:mean", "Entropy", "nats", "Falls slowly; a collapse ends learning."),
    _of_metric(
        "clip_fraction",
        "clip_fraction:mean",
        "Clip fraction",
        "share",
        "Tokens that the loss clipped; empty for losses that do not.",
    ),
    _of_metric(
        "without_spread",
        "groups_without_spread",
        "Groups of equal rewards",
        "share",
        "Groups whose rewards are all equal: they teach nothing.",
    ),
    _of_metric("grad_norm", "grad_norm", "Gradient norm", "2-norm", "Before clipping."),
    _of_metric("tokens_per_s", "tokens_per_s", "Throughput", "tokens/s", "Tokens computed by the trainer."),
)
"""Drawn unless others are asked for."""

_TOKENS_OF_ANSWERS = _number("tokens:sum") / func.nullif(CheckpointRow.num_traces, 0)
_MORE = (
    Figure(
        "answer_length",
        "answer_length",
        "Answer length",
        "tokens",
        "Sampled tokens of a rollout, mean over the step.",
        _TOKENS_OF_ANSWERS,
    ),
    Figure(
        "learning_rate", "learning_rate", "Learning rate", "", "As the step was asked for.", CheckpointRow.learning_rate
    ),
    Figure("num_traces", "num_traces", "Rollouts", "rollouts", "Of each step.", CheckpointRow.num_traces),
    Figure("num_tokens", "num_tokens", "Tokens", "tokens", "Trained on in each step.", CheckpointRow.num_tokens),
    _of_metric("loss", "loss:sum", "Loss", "sum", "Its size says little: look at the reward."),
    _of_metric("reward_std", "reward_std", "Reward, std", "reward", "Standard deviation over the step's trajectories."),
    _of_metric("reward_min", "reward_min", "Reward, min", "reward", "The lowest of each step."),
    _of_metric("reward_max", "reward_max", "Reward, max", "reward", "The highest of each step."),
)
_KNOWN = {figure.metric: figure for figure in (*STANDARD, *_MORE)}


def figure_of(metric: str) -> Figure:
    """The figure of that name; of a metric that is not known here by its name alone."""
    return _KNOWN.get(metric) or Figure(f"metric {metric}", metric, metric, "", "", _number(metric))


def with_spreads(figures: Iterable[Figure]) -> list[Figure]:
    """These, and those that are drawn as bands around them, each once."""
    wanted = dict[str, Figure]()
    for figure in figures:
        wanted.setdefault(figure.metric, figure)
        if figure.spread is not None:
            wanted.setdefault(figure.spread, figure_of(figure.spread))
    return list(wanted.values())


async def figures_of(session: AsyncSession, model_ids: Sequence[UUID]) -> list[Figure]:
    """All that the newest checkpoints of these models have: the standard ones first, then by name."""
    newest = (
        select(CheckpointRow.metrics)
        .where(CheckpointRow.model_id == ModelRow.id, CheckpointRow.status == "committed")
        .order_by(CheckpointRow.created_at.desc())
        .limit(_NEWEST)
        .lateral()
    )
    of_models = select(ModelRow.id).join(newest, true()).where(ModelRow.id.in_(model_ids))
    names = func.jsonb_object_keys(newest.c.metrics).label("name")
    query = of_models.with_only_columns(names).distinct().limit(_MOST_NAMES)
    found = [figure_of(name) for name in await session.scalars(query)]
    always = (*STANDARD, *_MORE[:4])
    others = sorted((one for one in found if one not in always), key=lambda one: (one.metric not in _KNOWN, one.title))
    return [*always, *others]
