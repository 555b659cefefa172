"""Hardly a group has a spread of rewards, so hardly one teaches."""

from __future__ import annotations

from typing import ClassVar

from server.guard.history import History, metric
from server.guard.rules.base import Finding, Parameters


class Spread:
    """Groups in which all succeed are what a model that has learned its tasks brings: they count only while the reward
    is below `solved` (a share of the way from the lowest to the highest reward seen)."""

    description: ClassVar = "nearly all groups have equal rewards, for several steps in a row, with tasks unsolved"
    parameters: ClassVar[Parameters] = {"share": 0.95, "steps": 5, "solved": 0.9}
    metrics: ClassVar[tuple[str, ...]] = ("groups_without_spread", "reward_min", "reward_max")
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """The last so many steps."""
        steps = int(parameters["steps"])
        if not history.steps or history.steps[-1].metric("groups_without_spread") is None:
            return None
        last = history.last(steps, metric("groups_without_spread"))
        if len(last) < steps:
            return None
        if any(share < parameters["share"] for _, share in last):
            return None
        seen = history.series("reward_min") + history.series("reward_max")
        reward = last[-1][0].reward
        if seen and reward is not None:
            low, high = min(value for _, value in seen), max(value for _, value in seen)
            if high > low and reward >= low + parameters["solved"] * (high - low):
                return None
        where = f"{last[0][0].name} to {last[-1][0].name}"
        shares = ", ".join(f"{share:.0%}" for _, share in last)
        message = (
            f"{shares} of the groups had no spread of rewards ({where}): nothing is learned from them; see the "
            "trainability report for tasks to drop or to make harder, or raise group_size"
        )
        evidence = {"shares": [share for _, share in last], "reward": reward}
        names = [step.name for step, _ in last]
        return Finding(message, {**evidence, "steps": [step.step for step, _ in last], "checkpoints": names})
