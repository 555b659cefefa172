"""Entropy collapses before anything was learned."""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

from server.guard.history import History, metric, reward
from server.guard.rules.base import Finding, Parameters


class Entropy:
    """A policy that has learned its tasks is sure of its answers too: a fall counts only without a gain in reward."""

    description: ClassVar = "entropy fell to a fraction of what it was, and the reward did not climb meanwhile"
    parameters: ClassVar[Parameters] = {"fraction": 0.1, "steps": 3, "reward_gain": 0.1}
    metrics: ClassVar[tuple[str, ...]] = ("entropy:mean",)
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """The first steps of the history against its last ones."""
        window = int(parameters["steps"])
        entropy = metric("entropy:mean")
        known, rewarded = history.first(2 * window, entropy), history.first(2 * window, reward)
        if len(known) < 2 * window or len(rewarded) < 2 * window:
            return None
        latest = history.last(window, entropy)
        start, now = fmean(value for _, value in known[:window]), [value for _, value in latest]
        if start <= 0 or max(now) > parameters["fraction"] * start:
            return None
        before = fmean(value for _, value in rewarded[:window])
        after = fmean(value for _, value in history.last(window, reward))
        if after - before >= parameters["reward_gain"]:
            return None
        first, last = known[0][0], latest[-1][0]
        message = (
            f"entropy fell from {start:.3g} to {now[-1]:.3g} nats a token ({first.name} to {last.name}) while the "
            f"reward went from {before:.3f} to {after:.3f}: the policy stopped trying things before it learned; lower "
            "the learning rate, or raise the sampling temperature"
        )
        evidence = {"entropy": [start, now[-1]], "rewards": [before, after], "checkpoints": [first.name, last.name]}
        return Finding(message, {**evidence, "steps": [first.step, last.step]})
