"""One part of the reward is at its limit while the task itself gets no better."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from server.guard.history import History
from server.guard.rules.base import Finding, Parameters


class Components:
    """Parts are the subscores that graders send, 0 to 1 each. The task is the newest benchmark; without one, the other
    parts, none of which may have climbed."""

    description: ClassVar = "a part of the reward climbed to its limit while the task score did not climb"
    parameters: ClassVar[Parameters] = {"limit": 0.95, "climb": 0.2, "steps": 3, "score_gain": 0.02}
    metrics: ClassVar[tuple[str, ...]] = ()
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """The first part, by name, of which this is so."""
        window = int(parameters["steps"])
        for name, means in sorted(history.components.items()):
            if len(means) < 2 * window:
                continue
            before, after = _ends(means, window)
            if after < parameters["limit"] or after - before < parameters["climb"]:
                continue
            if unmoved := _unmoved(history, name, window, parameters["score_gain"]):
                steps = [means[0][0], means[-1][0]]
                message = (
                    f"the part {name!r} of the reward climbed from {before:.2f} to {after:.2f} (steps {steps[0]} to "
                    f"{steps[1]}), its limit, while {unmoved}: it may be gamed; weigh it less, or make it harder"
                )
                return Finding(message, {"component": name, "means": [before, after], "steps": steps})
        return None


def _ends(means: Sequence[tuple[int, float]], window: int) -> tuple[float, float]:
    return fmean(mean for _, mean in means[:window]), fmean(mean for _, mean in means[-window:])


def _unmoved(history: History, name: str, window: int, gain: float) -> str | None:
    if history.scores:
        scores = history.benchmarks()[history.scores[-1].benchmark]
        if len(scores) < 2 or scores[-1].goodness - scores[0].goodness >= gain:
            return None
        return f"{scores[-1].benchmark} went from {scores[0].score:.3f} to {scores[-1].score:.3f}"
    others = {other: _ends(means, window) for other, means in history.components.items() if other != name}
    if not others or any(after - before >= gain for before, after in others.values()):
        return None
    return ", ".join(f"{other!r} went from {before:.2f} to {after:.2f}" for other, (before, after) in others.items())
