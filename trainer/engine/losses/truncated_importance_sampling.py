"""REINFORCE with importance weights that are cut off above: an answer to samplers that differ from the trainer."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.engine.losses.base import ActionTokens, Costs, Loss, log_ratios
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class TruncatedImportanceSampling(Loss):
    """C = −Σ sg(min(r_t, cap)) A_t π_t over action tokens, r_t = exp(π_t − q_t).

    −dC/dπ_t = min(r_t, cap) A_t; the weight is detached. From Yao et al. 2025, "Your Efficient RL Framework Secretly
    Brings You Off-Policy RL Training", who put it against the gap between a fast sampler and the trainer; the
    truncation is IMPALA's (arXiv:1802.01561). The same as cispo with a range of 0 to cap, and with a tighter default:
    2, as is usual against that gap, where cispo's 4 leaves room for a policy that moved on purpose.
    """

    cap: float = 2.0

    def __post_init__(self) -> None:
        if self.cap <= 0:
            raise InvalidRequest(f"cap is {self.cap}: it must be above 0")

    def __call__(self, tokens: ActionTokens) -> Costs:
        ratios_N = log_ratios(tokens).detach().exp()
        weights_N = ratios_N.clamp(max=self.cap)
        return Costs(-weights_N * tokens.advantages_N * tokens.logprobs_N, weights_N != ratios_N)
