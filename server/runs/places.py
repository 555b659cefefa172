"""The rollouts of a step: which place each has, under which id its present try runs, and from which seed it samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from server.runs.schedule import group_id, rollout_seed, trace_id
from server.runs.tasks import Task
from store.tables import RunStepRow


@dataclass(frozen=True, slots=True)
class Place:
    """A rollout of a step. position: tasks of the step × members of a group. number: of its try, from 1; draw: how many
    of the tries before ended by themselves."""

    position: int
    group: int
    task: Task
    number: int
    draw: int
    trace_id: UUID
    group_id: UUID
    seed: int


def places_of(row: RunStepRow, group_size: int, seed: int, tasks: Sequence[Task]) -> list[Place]:
    """All places of a step, in the order in which they are trained on."""
    chosen, tries = row.chosen["tasks"], row.chosen.get("tries", {})
    return [
        _place(row, group, position, tasks[chosen[group]["task"]], tries.get(str(position), (1, 0)), seed)
        for position in range(len(chosen) * group_size)
        for group in (position // group_size,)
    ]


def with_another_try(chosen: dict[str, Any], place: Place, *, ended_by_itself: bool) -> dict[str, Any]:
    """`chosen` with the next try in this place."""
    tries = {**chosen.get("tries", {}), str(place.position): [place.number + 1, place.draw + int(ended_by_itself)]}
    return {**chosen, "tries": tries}


def _place(row: RunStepRow, group: int, position: int, task: Task, tried: Sequence[int], seed: int) -> Place:
    number, draw = tried
    return Place(
        position=position,
        group=group,
        task=task,
        number=number,
        draw=draw,
        trace_id=trace_id(row.run_id, row.generation, row.step, row.kind, position, number),
        group_id=group_id(row.run_id, row.generation, row.step, row.kind, group),
        seed=rollout_seed(seed, row.step, row.kind, position, draw),
    )
