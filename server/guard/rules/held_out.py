"""Training reward climbs while a held-out score stalls or falls: the mark of a reward that is gamed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from server.guard.history import History, Score, mean_reward
from server.guard.rules.base import Finding, Parameters


class HeldOut:
    """The reward must have climbed between each two of the evaluations that are looked at, and over all of them beyond
    its noise. An honest score climbs along, and does not stay behind several times in a row."""

    description: ClassVar = "training reward climbs while a held-out score stalls or falls, several times in a row"
    parameters: ClassVar[Parameters] = {"evaluations": 2, "reward_gain": 0.02, "standard_errors": 2.5, "score_gain": 0}
    metrics: ClassVar[tuple[str, ...]] = ()
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """Of the benchmark whose score is newest."""
        if not history.scores:
            return None
        benchmark = history.scores[-1].benchmark
        scores = history.benchmarks()[benchmark][-(int(parameters["evaluations"]) + 1) :]
        if len(scores) <= parameters["evaluations"]:
            return None
        found = [_reward_at(history, scores, index) for index in range(len(scores))]
        rewards = [reward for reward in found if reward is not None]
        if len(rewards) < len(scores):
            return None
        for (before, after), ((low, _), (high, _)) in zip(pairwise(scores), pairwise(rewards), strict=True):
            if after.goodness - before.goodness > parameters["score_gain"] or high - low < parameters["reward_gain"]:
                return None
        (first, first_error), (last, last_error) = rewards[0], rewards[-1]
        if last - first < parameters["standard_errors"] * math.hypot(first_error, last_error):
            return None
        return _finding(benchmark, scores, [reward for reward, _ in rewards])


def _reward_at(history: History, scores: Sequence[Score], index: int) -> tuple[float, float] | None:
    """Of the steps since the score before; at the first score, of as many as lie before the second. A step's reward is
    that of the policy before it."""
    at = scores[index].step
    width = max(1, at - scores[index - 1].step if index else scores[1].step - at)
    for steps in (history.between(at - width + 1, at + 1), history.between(at - 1, at)):
        window = [step for step in steps if step.reward is not None]
        if window:
            return mean_reward(window)
    return None


def _finding(benchmark: str, scores: Sequence[Score], rewards: Sequence[float]) -> Finding:
    fell = scores[-1].goodness < scores[0].goodness
    series = ", ".join(f"{score.score:.3f} at {score.checkpoint_name}" for score in scores)
    climbed = ", ".join(f"{reward:.3f}" for reward in rewards)
    verb = "fell" if fell else "stalled"
    message = (
        f"{benchmark} {verb} over {len(scores) - 1} evaluations in a row ({series}) while the training reward climbed "
        f"({climbed}): the reward may be gamed; read some rollouts before you train on"
    )
    evidence = {
        "benchmark": benchmark,
        "scores": [score.score for score in scores],
        "rewards": list(rewards),
        "steps": [score.step for score in scores],
        "checkpoints": [score.checkpoint_name for score in scores],
    }
    return Finding(message, evidence)
