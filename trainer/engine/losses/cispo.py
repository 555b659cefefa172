"""Clipped importance weights: every token keeps a gradient, but none weighs more than the bound."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.engine.losses.base import ActionTokens, Costs, Loss, check_clip_range, log_ratios


@dataclass(frozen=True, slots=True)
class CISPO(Loss):
    """C = −Σ sg(clip(r_t, low, high)) A_t π_t over action tokens (MiniMax-M1, arXiv:2506.13585).

    r_t = exp(π_t − q_t). The clipped weight is detached: −dC/dπ_t = clip(r_t, low, high) A_t. One-sided by default,
    as in ScaleRL (arXiv:2510.13786).
    """

    clip_low_threshold: float = 0.0
    clip_high_threshold: float = 4.0

    def __post_init__(self) -> None:
        check_clip_range(self.clip_low_threshold, self.clip_high_threshold)

    def __call__(self, tokens: ActionTokens) -> Costs:
        ratios_N = log_ratios(tokens).detach().exp()
        weights_N = ratios_N.clamp(self.clip_low_threshold, self.clip_high_threshold)
        return Costs(-weights_N * tokens.advantages_N * tokens.logprobs_N, weights_N != ratios_N)
