"""Answers grow with the reward, and nothing held out confirms that longer is better."""

from __future__ import annotations

from statistics import fmean
from typing import ClassVar

from server.guard.history import History, Step, correlation
from server.guard.rules.base import Finding, Parameters


class Length:
    """Longer answers may well be better ones: a held-out score that climbed along acquits them."""

    description: ClassVar = "answers grow in step with the reward, and no held-out score climbed along"
    parameters: ClassVar[Parameters] = {"growth": 1.5, "tokens": 16, "correlation": 0.8, "steps": 8, "reward_gain": 0.1}
    metrics: ClassVar[tuple[str, ...]] = ("tokens:sum",)
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """Over all steps of the history: its first quarter (of the least number of steps) against its last."""
        least = int(parameters["steps"])
        edge = max(1, least // 4)
        start, end = history.first(least, _length), history.last(edge, _length)
        if len(start) < least:
            return None
        before, after = (fmean(length for _, length in part) for part in (start[:edge], end))
        low, high = (fmean(step.reward or 0.0 for step, _ in part) for part in (start[:edge], end))
        if after < parameters["growth"] * before or after - before < parameters["tokens"]:
            return None
        if high - low < parameters["reward_gain"]:
            return None
        known = history.first(len(history.steps), _length)
        together = correlation([(length, step.reward or 0.0) for step, length in known])
        if together < parameters["correlation"] or _confirmed(history):
            return None
        first, last = known[0][0], known[-1][0]
        message = (
            f"answers grew from {before:.0f} to {after:.0f} tokens while the reward climbed from {low:.3f} to "
            f"{high:.3f} ({first.name} to {last.name}; correlation {together:.2f}), and no held-out score climbed "
            "along: length itself may be what is rewarded; read some rollouts, or take length out of the reward"
        )
        evidence = {"lengths": [before, after], "rewards": [low, high], "correlation": together}
        return Finding(message, {**evidence, "steps": [first.step, last.step], "checkpoints": [first.name, last.name]})


def _length(step: Step) -> float | None:
    return step.length if step.reward is not None else None


def _confirmed(history: History) -> bool:
    return any(scores[-1].goodness > scores[0].goodness for scores in history.benchmarks().values() if len(scores) > 1)
