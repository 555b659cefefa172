"""GRPO done right: no division by a response's own length, so that the penalty of long wrong answers is not diluted."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.engine.losses.base import ActionTokens, Costs, Loss, check_clip_range, log_ratios
from trainer.engine.losses.surrogate import clipped_surrogate
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class DrGRPO(Loss):
    """C = −Σ min(r_t A_t, clip(r_t, low, high) A_t) / max_output_tokens over action tokens (arXiv:2503.20783).

    r_t = exp(π_t − q_t); −dC/dπ_t = r_t A_t / max_output_tokens, and 0 where clipped as in ppo. max_output_tokens is
    one constant for all batches, the paper's generation budget. Costs here are sums, so it is 1 by default, which is
    ppo itself. The paper's advantages are centred and not divided by a standard deviation: leave `advantage_std` off.
    """

    clip_low_threshold: float = 0.8
    clip_high_threshold: float = 1.2
    max_output_tokens: float = 1.0

    def __post_init__(self) -> None:
        check_clip_range(self.clip_low_threshold, self.clip_high_threshold)
        if self.max_output_tokens < 1:
            raise InvalidRequest(f"max_output_tokens is {self.max_output_tokens}: it must be 1 or more")

    def __call__(self, tokens: ActionTokens) -> Costs:
        summed = clipped_surrogate(
            log_ratios(tokens), tokens.advantages_N, self.clip_low_threshold, self.clip_high_threshold
        )
        return Costs(summed.costs_N / self.max_output_tokens, summed.clipped_N)
