"""What one model owns on a base: LoRA weights, accumulated gradient and AdamW moments, each one flat buffer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from trainer.engine.finite import squares_finite
from trainer.engine.lora_layout import LoraLayout
from wire.engine import LoraConfig
from wire.errors import Conflict

_BUFFERS = ("weights", "gradient", "exp_avg", "exp_avg_sq")


@dataclass(slots=True, eq=False)
class Session:
    """All buffers share length, dtype (float32; float64 on a float64 base) and device; layout says what lies where.

    num_steps: AdamW steps that the moments have seen. A step puts new buffers in the place of the old ones, which are
    never written to: who holds an old one keeps its values.
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
        if not squares_finite(total):
            raise Conflict("this batch's gradient on top of the accumulated one overflows: call optim_step first")
        self.gradient = total

    def put_back(self, before: Session) -> None:
        """As it was when `before` was made of it, by `dataclasses.replace`."""
        self.weights, self.gradient = before.weights, before.gradient
        self.exp_avg, self.exp_avg_sq = before.exp_avg, before.exp_avg_sq
        self.num_steps = before.num_steps

    @property
    def num_bytes(self) -> int:
        """Of all buffers together."""
        return sum(buffer.nbytes for buffer in self.buffers().values())

    def buffers(self) -> dict[str, torch.Tensor]:
        """All buffers by name."""
        return {name: getattr(self, name) for name in _BUFFERS}

    def checksum(self) -> int:
        """The sum of all buffers' words, as integers: any one bit changes it."""
        return sum(int(buffer.view(torch.int32).sum(dtype=torch.int64)) for buffer in self.buffers().values())

    def on(self, device: torch.device) -> Session:
        """The same session, its buffers on this device."""
        return replace(self, **{name: buffer.to(device) for name, buffer in self.buffers().items()})

    def on_host(self) -> Session:
        """The same session in host memory, pinned where that speeds the way back up."""
        return replace(self, **{name: _host_copy(buffer) for name, buffer in self.buffers().items()})


def _host_copy(buffer: torch.Tensor) -> torch.Tensor:
    if not buffer.is_cuda:
        return buffer.cpu()
    try:
        return torch.empty_like(buffer, device="cpu", pin_memory=True).copy_(buffer)
    except RuntimeError:  # the machine lets a process pin no more
        return buffer.cpu()
