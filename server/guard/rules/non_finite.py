"""Numbers that are not finite: the policy diverged, or would with the step that was asked for."""

from __future__ import annotations

import math
from typing import ClassVar

from server.guard.history import History
from server.guard.rules.base import Finding, Parameters


class NonFinite:
    """A trainer refuses such a pass or step, so the head is as it was; trying again as before would fail again."""

    description: ClassVar = "a trainer met numbers that are not finite, or a step has such a figure"
    parameters: ClassVar[Parameters] = {}
    metrics: ClassVar[tuple[str, ...]] = ()
    actions: ClassVar[tuple[str, ...]] = ("pause",)

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """A failure, or a figure of the last step."""
        if history.failure is not None:
            return Finding(f"a trainer met numbers that are not finite: {history.failure}", {"error": history.failure})
        last = history.steps[-1] if history.steps else None
        if last is None:
            return None
        figures = {**last.metrics, "mean_reward": last.reward}
        odd = [name for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)]
        if not odd:
            return None
        names = ", ".join(sorted(odd))
        message = f"{names} of {last.name} are not finite; set the head to a checkpoint before it"
        return Finding(message, {"metrics": sorted(odd), "steps": [last.step], "checkpoints": [last.name]})
