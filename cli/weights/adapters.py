"""A LoRA adapter in PEFT's layout, as what it adds to each weight of its base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cli.weights.download import CONFIG, WEIGHTS

_PREFIX, _SIDES = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
# Whatever else changes what an adapter computes must be off.
_MUST_BE_OFF = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "modules_to_save", "trainable_token_indices",
                "layer_replication", "lora_bias", "use_qalora", "alora_invocation_tokens", "arrow_config")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Addition:
    """`scale · left @ right` is added to a weight of the shape (rows, columns): left_RK, right_KC float32."""

    left: torch.Tensor
    right: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, first: int, end: int) -> torch.Tensor:
        """What is added to these rows."""
        return self.scale * (self.left[first:end] @ self.right)


class Adapter:
    """Raises ValueError for one that adds something else than LoRA products."""

    def __init__(self, folder: Path) -> None:
        self._config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        if strange := [name for name in _MUST_BE_OFF if self._config.get(name)]:
            raise ValueError(f"{CONFIG} has {strange[0]}, which cannot be merged here; use PEFT's merge_and_unload")
        if self._config.get("bias", "none") != "none":
            raise ValueError(f"{CONFIG} trains biases, which cannot be merged here; use PEFT's merge_and_unload")
        self._file = safe_open(folder / WEIGHTS, framework="pt")
        self.layers: Sequence[str] = sorted(
            {
                name.removeprefix(_PREFIX).removesuffix(_SIDES[0])
                for name in self._file.keys()  # noqa: SIM118 - it is no dict
                if name.endswith(_SIDES[0])
            }
        )
        known = {f"{_PREFIX}{layer}{side}" for layer in self.layers for side in _SIDES}
        if strange := sorted(set(self._file.keys()) ^ known):
            raise ValueError(f"{WEIGHTS}: {strange[0]} is no side of a LoRA layer, or the other side is missing")

    @property
    def base(self) -> str:
        """The name of its base."""
        return str(self._config.get("base_model_name_or_path") or "")

    def addition(self, layer: str) -> Addition:
        """What it adds to the weight of a layer."""
        a_KC, b_RK = (self._file.get_tensor(f"{_PREFIX}{layer}{side}").float() for side in _SIDES)
        scale = self._config["lora_alpha"] / self._config["r"]
        if self._config.get("fan_in_fan_out"):
            return Addition(a_KC.T.contiguous(), b_RK.T.contiguous(), scale)
        return Addition(b_RK, a_KC, scale)
