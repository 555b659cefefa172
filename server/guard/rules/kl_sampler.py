"""KL between sampler and trainer over a bound."""

from __future__ import annotations

from typing import ClassVar

from server.guard.history import History
from server.guard.rules.base import Finding, Parameters
from server.guard.rules.bounds import over_bound


class KlSampler:
    """By k3, which is never negative."""

    description: ClassVar = "KL between sampler and trainer over a bound"
    parameters: ClassVar[Parameters] = {"bound": 0.5, "steps": 2}
    metrics: ClassVar[tuple[str, ...]] = ("kl_sampling_trainer_k3:mean",)
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """Over the bound for so many steps."""
        advice = "rollouts are stale, or sampler and trainer differ in precision or template"
        bound, steps = parameters["bound"], int(parameters["steps"])
        what = "KL between sampler and trainer (nats a token)"
        return over_bound(history, "kl_sampling_trainer_k3:mean", bound, steps, what, advice)
