"""Where an adapter's tensors lie in a flat buffer. Imports neither PEFT nor transformers, which take seconds: sessions
and their files need no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LoraLayout:
    """Which tensor lies where in a flat buffer: names as PEFT saves them, and shapes, in order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def num_parameters(self) -> int:
        """Length of the flat buffer."""
        return sum(rows * columns for rows, columns in self.shapes)

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The buffer's tensors, in order, sharing its memory."""
        parts = flat.split([rows * columns for rows, columns in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def fresh_weights(self, init_seed: int) -> torch.Tensor:
        """Flat float32 on the CPU: A uniform within ±1/√inputs as PEFT does, B zero. Only init_seed matters."""
        generator = torch.Generator().manual_seed(init_seed)
        flat = torch.zeros(self.num_parameters)
        for name, tensor in zip(self.names, self.views(flat), strict=True):
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        return flat
