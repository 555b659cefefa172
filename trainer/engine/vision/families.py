"""Families of bases that see, as transformers has them: which class loads them, what their towers return for a picture,
and what their own forward wants beside ids.

Placeholder ids are never counted, neither for features nor for positions: one that was sampled or typed is text.
"""

# N tokens of a picture, D hidden size, L levels, T tokens of a sequence

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from trainer.engine.vision.features import Features


class VisionFamily(ABC):
    """pixels: what the family's image processor makes of one picture, on the model's device."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, pixels: Mapping[str, torch.Tensor]) -> Features:
        """Of one picture, by itself."""

    @abstractmethod
    def own_inputs(self, pixels: Mapping[str, torch.Tensor], is_picture_1T: torch.Tensor) -> dict[str, Any]:
        """What the model's own forward takes beside the ids: pixels of all pictures of a sequence, in order, and which
        ids stand for them."""


class _Patches(VisionFamily):
    """Qwen2.5-VL; and Qwen3-VL, whose tower has levels that are added behind the first text layers (deepstack)."""

    def encode(self, model: PreTrainedModel, pixels: Mapping[str, torch.Tensor]) -> Features:
        whole: Any = model.base_model
        found = whole.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"])
        (rows_ND,) = found.pooler_output
        levels = getattr(found, "deepstack_features", None) or []
        return Features(rows_ND, tuple(level_ND for (level_ND,) in levels))

    def own_inputs(self, pixels: Mapping[str, torch.Tensor], is_picture_1T: torch.Tensor) -> dict[str, Any]:
        return {**pixels, "mm_token_type_ids": is_picture_1T.int()}


class _FixedSize(VisionFamily):
    """Gemma 3."""

    def encode(self, model: PreTrainedModel, pixels: Mapping[str, torch.Tensor]) -> Features:
        whole: Any = model.base_model
        (rows_ND,) = whole.get_image_features(pixels["pixel_values"]).pooler_output
        return Features(rows_ND)

    def own_inputs(self, pixels: Mapping[str, torch.Tensor], is_picture_1T: torch.Tensor) -> dict[str, Any]:
        return {"pixel_values": pixels["pixel_values"], "token_type_ids": is_picture_1T.int()}


FAMILIES: dict[str, VisionFamily] = {"qwen2_5_vl": _Patches(), "qwen3_vl": _Patches(), "gemma3": _FixedSize()}
"""By the model type of their configurations."""


def loader_of(config: PreTrainedConfig) -> Any:
    """transformers' class that makes or reads a model of this configuration, with its tower if it has one."""
    return AutoModelForImageTextToText if config.model_type in FAMILIES else AutoModelForCausalLM
