"""What one model owns on a base: LoRA weights, accumulated gradient and AdamW moments, each one flat buffer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.finite import all_finite
from trainer.lora import LoraLayout
from wire.engine import LoraConfig
from wire.errors import Conflict


@dataclass(slots=True, eq=False)
class Session:
    """All buffers share length, dtype (float32; float64 on a float64 base) and device; layout says what lies where.

    num_steps: AdamW steps that the moments have seen.
    """

    lora: LoraConfig
    layout: LoraLayout
    weights: torch.Tensor
    gradient: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    num_steps: int = 0

    @classmethod
    def starting_from(cls, lora: LoraConfig, layout: LoraLayout, weights: torch.Tensor) -> Session:
        """These weights, no gradient, fresh moments."""
        gradient, exp_avg, exp_avg_sq = (torch.zeros_like(weights) for _ in range(3))
        return cls(lora, layout, weights, gradient, exp_avg, exp_avg_sq)

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Accumulate, or raise Conflict and stay as it was if the sum overflows."""
        total = self.gradient + gradient
        if not all_finite(total):
            raise Conflict("this batch's gradient on top of the accumulated one overflows: call optim_step first")
        self.gradient = total
