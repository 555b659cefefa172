"""The trainability report: of each task, what its groups taught over time, and what to do about it."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.service import no_such_model
from server.guard.types import Period, TaskReport, TrainabilityReport
from server.values.sanitizing import is_storable
from store.rollouts.traces import REWARD, STATUS
from store.tables import ModelRow
from wire.cursors import make_cursor, parse_cursor
from wire.errors import InvalidRequest
from wire.spread import HAS_SPREAD

NUM_PERIODS = 10
RECENT_GROUPS = 8
"""A task is judged by its newest groups: what it taught once says little about what it teaches now."""
_FEW_GROUPS = 2
_LITTLE_SIGNAL = 0.2
_NEAR = 0.02
"""Of the way from the lowest to the highest reward."""

Advice = Literal["keep", "make_harder", "drop", "look", "unknown"]

_COUNTED = f"""
    from traces t left join jobs j on j.team_id = t.team_id and j.id = t.job_id
    where t.team_id = :team_id and t.model_id = :model_id and {STATUS} = 'completed' and {REWARD} is not null
        and t.task_slug is not null and j.is_evaluation is not true
"""
_BOUNDS = text(f"select min({REWARD}), max({REWARD}), min(t.created_at), max(t.created_at) {_COUNTED}")
_TASKS = text(f"select distinct t.task_slug {_COUNTED} and t.task_slug > :after order by 1 limit :limit")
_GROUPS = text(f"""
    with rollouts as (
        select t.task_slug as task, coalesce(t.group_id, t.id::text) as grp, {REWARD} as reward, t.created_at {_COUNTED}
            and t.task_slug = any(:tasks)
    ), groups as (
        select task, grp, count(*) as n, avg(reward) as mean, stddev_pop(reward) as spread,
            {HAS_SPREAD.format(low="min(reward)", high="max(reward)")} as signal, min(created_at) as at
        from rollouts group by task, grp
    )
    select task,
        least(:periods - 1, floor(:periods * extract(epoch from at - :since) / :seconds))::int as period,
        case when recent <= {RECENT_GROUPS} then 1 else 0 end as is_recent,
        sum(n)::int, (count(*) filter (where n > 1))::int, sum(n * mean)::float8,
        coalesce(sum(spread) filter (where n > 1), 0)::float8, (count(*) filter (where n > 1 and signal))::int
    from (select *, row_number() over (partition by task order by at desc, grp) as recent from groups) g
    group by 1, 2, 3 order by 1, 2, 3
""")


@dataclass(frozen=True, slots=True)
class _Sum:
    """Of some groups of a task: rollouts, groups of two or more, and sums over them."""

    num_rollouts: int = 0
    num_groups: int = 0
    reward: float = 0.0
    spread: float = 0.0
    num_with_signal: int = 0

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(
            self.num_rollouts + other.num_rollouts,
            self.num_groups + other.num_groups,
            self.reward + other.reward,
            self.spread + other.spread,
            self.num_with_signal + other.num_with_signal,
        )

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "num_rollouts": self.num_rollouts,
            "num_groups": self.num_groups,
            "reward_mean": self.reward / self.num_rollouts,
            "reward_spread": self.spread / self.num_groups if self.num_groups else None,
            "signal": self.num_with_signal / self.num_groups if self.num_groups else None,
        }


async def trainability(session: AsyncSession, model: ModelRow, *, cursor: str | None, limit: int) -> TrainabilityReport:
    """A page of a model's tasks, by name. Raises NotFound for a base model, InvalidRequest for a bad cursor."""
    asked = _asked(model)
    after = _task_of(cursor) if cursor is not None else ""
    tasks = list(await session.scalars(_TASKS, {**asked, "after": after, "limit": limit + 1}))
    following = make_cursor(tasks[limit - 1]) if len(tasks) > limit else None
    report = await trainability_of(session, model, tasks[:limit])
    return report.model_copy(update={"next_cursor": following})


async def trainability_of(session: AsyncSession, model: ModelRow, tasks: Sequence[str]) -> TrainabilityReport:
    """Of these tasks, as far as the model was trained on them. Raises NotFound for a base model."""
    asked = _asked(model)
    low, high, since, until = (await session.execute(_BOUNDS, asked)).one()
    if not tasks or since is None:
        return TrainabilityReport(items=[], reward_min=low, reward_max=high, next_cursor=None)
    seconds = max((until - since).total_seconds(), 1e-6)
    asked |= {"tasks": list(tasks), "since": since, "seconds": seconds, "periods": NUM_PERIODS}
    by_task = dict[str, list[Any]]()
    for row in await session.execute(_GROUPS, asked):
        by_task.setdefault(row[0], []).append(row)
    items = [_report(task, by_task[task], (low, high), since, seconds) for task in tasks if task in by_task]
    return TrainabilityReport(items=items, reward_min=low, reward_max=high, next_cursor=None)


def _asked(model: ModelRow) -> dict[str, Any]:
    if model.team_id is None:
        raise no_such_model(model.slug)
    return {"team_id": model.team_id, "model_id": model.id}


def _report(task: str, rows: Sequence[Any], bounds: tuple[float, float], since: datetime, seconds: float) -> TaskReport:
    periods, recent = dict[int, _Sum](), _Sum()
    for _, period, is_recent, *sums in rows:
        periods[period] = periods.get(period, _Sum()) + _Sum(*sums)
        recent = recent + _Sum(*sums) if is_recent else recent
    total = sum(periods.values(), _Sum())
    advice, reason = advise(recent.figures, bounds)
    over_time = [
        Period(since=since + timedelta(seconds=seconds * index / NUM_PERIODS), **found.figures)
        for index, found in sorted(periods.items())
    ]
    return TaskReport(task=task, advice=advice, reason=reason, over_time=over_time, **total.figures)


def advise(recent: dict[str, Any], bounds: tuple[float, float]) -> tuple[Advice, str]:
    """What to do with a task, by its newest groups and the lowest and highest reward of the model's rollouts."""
    num_groups, signal, mean = recent["num_groups"], recent["signal"], recent["reward_mean"]
    low, high = bounds
    if num_groups < _FEW_GROUPS or signal is None:
        return (
            "unknown",
            f"{num_groups} of its newest rollouts' groups had two rollouts or more; {_FEW_GROUPS} are needed",
        )
    last = f"in its newest {num_groups} groups"
    if signal == 0 and high > low and mean >= high - _NEAR * (high - low):
        return "make_harder", f"all rollouts succeed {last} (mean {mean:.3f}): nothing is left to learn from it"
    if signal == 0 and high > low and mean <= low + _NEAR * (high - low):
        return "drop", f"all rollouts fail {last} (mean {mean:.3f}): drop it, make it easier, or raise group_size"
    if signal == 0:
        return "look", f"rewards are equal within each group {last} (mean {mean:.3f}): is its reward what you mean?"
    if signal < _LITTLE_SIGNAL:
        how = "easy" if mean > (low + high) / 2 else "hard"
        return "look", f"{signal:.0%} of groups taught something {last}: it is nearly too {how} (mean {mean:.3f})"
    return "keep", f"{signal:.0%} of groups taught something {last} (mean {mean:.3f})"


def _task_of(cursor: str) -> str:
    (task,) = parse_cursor(cursor, str)
    if not is_storable(task):
        raise InvalidRequest("cursor: not one of this list; send a `next_cursor` as it came, or none")
    return task
