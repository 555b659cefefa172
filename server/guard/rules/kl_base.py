"""KL to the base model over a bound."""

from __future__ import annotations

from typing import ClassVar

from server.guard.history import History
from server.guard.rules.base import Finding, Parameters
from server.guard.rules.bounds import over_bound


class KlBase:
    """Known only where the loss has a `kl_penalty_coef`."""

    description: ClassVar = "KL to the base model over a bound (where the loss has a KL penalty, which reports it)"
    parameters: ClassVar[Parameters] = {"bound": 2.0, "steps": 2}
    metrics: ClassVar[tuple[str, ...]] = ("kl_base:mean",)
    actions: ClassVar = ()

    def find(self, history: History, parameters: Parameters) -> Finding | None:
        """Over the bound for so many steps."""
        advice = "the policy runs away from its base; raise kl_penalty_coef or lower the learning rate"
        bound, steps = parameters["bound"], int(parameters["steps"])
        return over_bound(history, "kl_base:mean", bound, steps, "KL to the base model (nats a token)", advice)
