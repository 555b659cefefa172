"""The clipped surrogate of PPO, for whatever ratio a loss takes."""

# N action tokens of a micro-batch

from __future__ import annotations

import torch

from trainer.engine.losses.base import Costs


def clipped_surrogate(log_ratios_N: torch.Tensor, advantages_N: torch.Tensor, low: float, high: float) -> Costs:
    """−min(r A, clip(r, low, high) A) of each token, with gradient through r = exp(log_ratios_N) where unclipped.

    Finite for a ratio that overflows, unless the advantage is negative: there the surrogate has no bound.
    """
    ratios_N = log_ratios_N.detach().exp()
    above_N = (advantages_N > 0) & (ratios_N > high)
    below_N = (advantages_N < 0) & (ratios_N < low)
    clipped_N = above_N | below_N
    # Clipped ratios leave the graph before exp: where one overflows, 0 · inf would be a gradient of NaN.
    inside_N = torch.where(clipped_N, 0.0, log_ratios_N).exp() * advantages_N
    bounds_N = ratios_N.clamp(low, high) * advantages_N
    return Costs(-torch.where(clipped_N, bounds_N, inside_N), clipped_N)
