"""REINFORCE, corrected for the policy having moved since it sampled."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.engine.losses.base import ActionTokens, Costs, Loss, log_ratios


@dataclass(frozen=True, slots=True)
class ImportanceSampling(Loss):
    """C = −Σ r_t A_t over action tokens, r_t = exp(π_t − q_t); −dC/dπ_t = r_t A_t (nothing is detached).

    The per-token form that Tinker's public loss reference names importance_sampling. On policy it is cross_entropy
    weighted by the advantage.
    """

    def __call__(self, tokens: ActionTokens) -> Costs:
        return Costs(-log_ratios(tokens).exp() * tokens.advantages_N)
