"""Causal attention over a prefix tree, behind transformers' attention interface.

The layout of a pack travels through the model as a keyword; no mask is ever built. With a mask function registered,
or with transformers' own kernels, position ids that restart would be read as a packing to be guessed at: nothing is
guessed here, and a mask that arrives regardless is a bug of ours.
"""

# B = 1 row, H query heads, K key heads, T packed tokens, E head dimension

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import AttentionInterface

from trainer.engine.kernels import Kernel
from trainer.engine.prefix_tree import PrefixTree

IMPLEMENTATION = "headway_packed"

# Terms that some architectures add to the scores or the softmax, under the names in which they arrive.
_UNSUPPORTED_TERMS = ("softcap", "s_aux", "sinks", "position_bias", "head_mask", "cache")


Made = TypeVar("Made")


class UnsupportedArchitecture(ValueError):
    """The base model does something that the engine would compute wrongly."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayout:
    """Which packed tokens see which, and the kernel that computes it."""

    tree: PrefixTree
    kernel: Kernel
    _made: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What all layers share, made when the first of them asks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def attend(
        self,
        query_1HTE: torch.Tensor,
        key_1KTE: torch.Tensor,
        value_1KTE: torch.Tensor,
        window: int | None,
        scale: float,
    ) -> torch.Tensor:
        """[1, T, H, E]."""
        device, dtype = query_1HTE.device, query_1HTE.dtype
        prepared = self.once((window, dtype), lambda: self.kernel.prepare(self.tree, window, device, dtype))
        return self.kernel.attend(query_1HTE, key_1KTE, value_1KTE, prepared, scale)


def register() -> None:
    """Make IMPLEMENTATION known to transformers. Idempotent."""
    AttentionInterface.register(IMPLEMENTATION, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query_BHTE: torch.Tensor,
    key_BKTE: torch.Tensor,
    value_BKTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_layout: PackedLayout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each token to itself and those above it in the tree; returns [B, T, H, E] and no weights.

    sliding_window: a token sees itself and the sliding_window − 1 tokens before it.
    Raises UnsupportedArchitecture for a term that is not computed here.
    """
    assert attention_mask is None, "transformers built a mask: the layout alone says what is visible"
    _refuse_unsupported(module, sliding_window, kwargs)
    scale = query_BHTE.shape[-1] ** -0.5 if scaling is None else scaling
    return packed_layout.attend(query_BHTE, key_BKTE, value_BKTE, sliding_window, scale), None


def _refuse_unsupported(module: torch.nn.Module, sliding_window: int | None, kwargs: dict[str, Any]) -> None:
    name = type(module).__name__
    for term in _UNSUPPORTED_TERMS:
        if kwargs.get(term) is not None:
            raise UnsupportedArchitecture(f"{name} uses {term}, which packed attention does not compute")
    if kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise UnsupportedArchitecture(f"{name} is not causal")
    if _slides_by_configuration(module) and sliding_window is None:
        raise UnsupportedArchitecture(f"{name} has a sliding window that it states in a mask only")


def _slides_by_configuration(module: torch.nn.Module) -> bool:
    layer_types = getattr(getattr(module, "config", None), "layer_types", None)
    return layer_types is not None and layer_types[getattr(module, "layer_idx", 0)] == "sliding_attention"
