"""What a step's rollouts come to: the groups that are trained on, and the figures of their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, pstdev
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import func, select

from server.runs.events import add_event
from server.runs.loop.failures import RunFailed
from server.runs.loop.services import LeasedRun
from server.runs.places import Place
from server.runs.rollout_states import RolloutState
from store.tables import RunStepRow
from wire.spread import has_spread

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one task. `usable`: those with tokens and a reward, in order."""

    task: str
    size: int
    usable: Sequence[RolloutState]


def groups_of(places: Sequence[Place], states: Mapping[UUID, RolloutState]) -> list[Group]:
    """In the order of the step's tasks."""
    by_group = dict[int, list[Place]]()
    for place in places:
        by_group.setdefault(place.group, []).append(place)
    return [
        Group(
            members[0].task.slug,
            len(members),
            [states[place.trace_id] for place in members if states[place.trace_id].is_trainable],
        )
        for members in by_group.values()
    ]


async def conclude_rollouts(
    leased: LeasedRun, row: RunStepRow, places: Sequence[Place], states: Mapping[UUID, RolloutState]
) -> None:
    """Write down the groups that are trained on, and say which were left out.

    Raises RunFailed when more rollouts have failed for good than the run allows, or no group is left.
    """
    groups = groups_of(places, states)
    kept = [group for group in groups if len(group.usable) >= leased.config.smallest_group]
    failed = [states[place.trace_id] for place in places if not states[place.trace_id].is_trainable]
    refuse_failures(leased, f"step {row.step}", len(places), failed)
    if not kept:
        raise RunFailed(
            f"no group of step {row.step} has {leased.config.smallest_group} usable rollouts (config.min_group); "
            f"the first that failed: {_why(failed[0])}"
        )
    async with leased.lease.writing() as (session, run):
        query = select(RunStepRow).where(RunStepRow.run_id == run.id, RunStepRow.step == row.step)
        kept_row = await session.scalar(query.where(RunStepRow.kind == row.kind))
        if kept_row is None or kept_row.generation != row.generation:
            return
        trained = [[state.trace_id.hex for state in group.usable] for group in kept]
        kept_row.chosen = {**kept_row.chosen, "groups": trained}
        now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        kept_row.rolled_out_at, seconds = now, (now - kept_row.began_at).total_seconds()
        num_tokens = sum(state.num_tokens for state in states.values())
        kept_row.metrics = {
            **figures_of(kept),
            "num_rollouts": sum(len(group.usable) for group in kept),
            "num_errors": len(failed),
            "groups_dropped": len(groups) - len(kept),
            "num_tokens": num_tokens,
            "rollout_s": seconds,
        }
        if failed:
            dropped = [group for group in groups if len(group.usable) < leased.config.smallest_group]
            await add_event(session, run, "warning", _left_out(row.step, groups, dropped, failed))


def refuse_failures(leased: LeasedRun, what: str, num_rollouts: int, failed: Sequence[RolloutState]) -> None:
    """Raises RunFailed when more have failed for good than the run allows."""
    if len(failed) > leased.stop.max_rollout_errors * num_rollouts:
        raise RunFailed(
            f"{len(failed)} of the {num_rollouts} rollouts of {what} failed in all of their "
            f"{leased.config.rollout_tries} tries, more than stop.max_rollout_errors "
            f"({leased.stop.max_rollout_errors}) allows; the first: {_why(failed[0])}"
        )


def figures_of(groups: Sequence[Group]) -> dict[str, Any]:
    """Of the rewards of groups that are trained on."""
    rewards = [[state.reward for state in group.usable if state.reward is not None] for group in groups]
    low_G = np.array([min(members) for members in rewards], np.float64)
    high_G = np.array([max(members) for members in rewards], np.float64)
    flat = [reward for members in rewards for reward in members]
    return {
        "reward": fmean(flat),
        "reward_std": pstdev(flat),
        "groups_without_spread": int((~has_spread(low_G, high_G)).sum()),
    }


def _left_out(step: int, groups: Sequence[Group], dropped: Sequence[Group], failed: Sequence[RolloutState]) -> str:
    said = f"step {step}: {len(failed)} rollouts failed for good (the first: {_why(failed[0])})"
    smaller = sum(len(group.usable) < group.size for group in groups) - len(dropped)
    if smaller:
        said += f"; {smaller} groups are trained on without some of their members"
    if dropped:
        named = ", ".join(repr(group.task) for group in dropped[:_MOST_NAMED])
        said += f"; {len(dropped)} of {len(groups)} groups are left out: {named}"
    return said


def _why(state: RolloutState) -> str:
    problem = state.problem or "no tokens of it are on record: its sampling failed"
    return f"trace {state.trace_id.hex}: {problem[:500]}"
