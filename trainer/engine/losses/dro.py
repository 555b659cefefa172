"""Direct reward optimisation: a policy gradient held to the sampling policy by a quadratic pull."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.engine.losses.base import ActionTokens, Costs, Loss
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class DRO(Loss):
    """C = −Σ [A_t π_t − ½ β (π_t − q_t)²] over action tokens (arXiv:2405.19107).

    −dC/dπ_t = A_t − β (π_t − q_t); no importance ratio, nothing detached. The field agrees on no default for β; ours
    is 0.05. A token whose advantage is 0 still feels the pull once the policy has left q_t.
    """

    follows_advantages: ClassVar[bool] = False

    beta: float = 0.05

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise InvalidRequest(f"beta is {self.beta}: it must be 0 or more")

    def __call__(self, tokens: ActionTokens) -> Costs:
        drift_N = tokens.logprobs_N - tokens.sampling_logprobs_N
        return Costs(0.5 * self.beta * drift_N**2 - tokens.advantages_N * tokens.logprobs_N)
