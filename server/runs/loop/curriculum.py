"""Which tasks a step is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.schedule import tasks_in_turn
from server.runs.settings import RunConfig
from server.runs.tasks import Task
from server.trainability.report import trainability_of
from store.tables import ModelRow

_RANKS = {"keep": 0, "unknown": 0, "look": 1, "make_harder": 2, "drop": 2}
"""By the advice of the trainability report: tasks whose groups disagree, or of which too little is known; then those
that seldom teach; then those that all rollouts pass, or fail."""
_IN_TURN_EVERY = 4
"""Every fourth place goes to whoever's turn it is, so that a task that was passed over is seen again."""


async def choose_tasks(
    session: AsyncSession, model: ModelRow, config: RunConfig, tasks: Sequence[Task], step: int
) -> list[dict[str, Any]]:
    """The step's tasks as {task: its index, why}, in order."""
    count = config.tasks_per_step or len(tasks)
    in_turn = tasks_in_turn(config.seed, len(tasks), (step - 1) * count, count)
    if config.curriculum == "none" or count == len(tasks):
        return [{"task": index, "why": "in turn"} for index in in_turn]
    report = await trainability_of(session, model, [task.slug for task in tasks])
    advice = {item.task: item.advice for item in report.items}
    order = tasks_in_turn(config.seed, len(tasks), (step - 1) * count, 2 * len(tasks))
    return spread_first(order, count, [advice.get(task.slug, "unknown") for task in tasks])


def spread_first(order: Sequence[int], count: int, advice: Sequence[str]) -> list[dict[str, Any]]:
    """`count` different tasks by rank, and within a rank by whose turn is next; some by turn alone."""
    turns = list(dict.fromkeys(order))
    num_in_turn = count // _IN_TURN_EVERY
    chosen: Mapping[int, str] = dict.fromkeys(turns[:num_in_turn], "in turn")
    ranked = sorted(turns[num_in_turn:], key=lambda index: _RANKS[advice[index]])
    chosen = {**chosen, **{index: advice[index] for index in ranked[: count - num_in_turn]}}
    return [{"task": index, "why": why} for index, why in chosen.items()]
