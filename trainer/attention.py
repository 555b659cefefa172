"""Causal attention over packed sequences, behind transformers' attention interface.

The layout of a pack travels through the model as a keyword; no mask is ever built. With a mask function registered,
or with transformers' own kernels, position ids that restart would be read as a packing to be guessed at: nothing is
guessed here, and a mask that arrives regardless is a bug of ours.
"""

# B = 1 row, H query heads, K key heads, T packed tokens, L tokens of one sequence, E head dimension

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

IMPLEMENTATION = "headway_packed"

# Terms that some architectures add to the scores or the softmax, under the names in which they arrive.
_UNSUPPORTED_TERMS = ("softcap", "s_aux", "sinks", "position_bias", "head_mask", "cache")


class UnsupportedArchitecture(ValueError):
    """The base model does something that the engine would compute wrongly."""


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Which packed tokens see which: the lengths of the sequences that lie one behind the other."""

    lengths: tuple[int, ...]


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
    """Attention of each token to those before it in its own sequence; returns [B, T, H, E] and no weights.

    sliding_window: a token sees itself and the sliding_window − 1 tokens before it.
    Raises UnsupportedArchitecture for a term that is not computed here.
    """
    assert attention_mask is None, "transformers built a mask: the layout alone says what is visible"
    _refuse_unsupported(module, sliding_window, kwargs)
    outputs = [
        scaled_dot_product_attention(q, k, v, **_visibility(q, sliding_window), scale=scaling, enable_gqa=True)
        for q, k, v in _sequences(packed_layout, query_BHTE, key_BKTE, value_BKTE)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _sequences(layout: PackedLayout, *packed: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    # split, not slices: the backward of n slices fills n gradients of full length.
    return zip(*(tensor.split(layout.lengths, dim=2) for tensor in packed), strict=True)


def _visibility(query_BHLE: torch.Tensor, sliding_window: int | None) -> dict[str, Any]:
    length = query_BHLE.shape[2]
    if sliding_window is None or length <= sliding_window:
        return {"is_causal": True}
    visible_LL = torch.ones(length, length, dtype=torch.bool, device=query_BHLE.device).tril()
    return {"attn_mask": visible_LL.triu(1 - sliding_window)}


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
