"""Attention of packed sequences without their shared prefixes: one causal block a sequence, no mask."""

# B = 1 row, H query heads, K key heads, T packed tokens, E head dimension

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

IMPLEMENTATION = "bench_block_diagonal"


def register() -> None:
    """Make IMPLEMENTATION known to transformers. Idempotent."""
    AttentionInterface.register(IMPLEMENTATION, _attention)


def _attention(
    module: torch.nn.Module,
    query_BHTE: torch.Tensor,
    key_BKTE: torch.Tensor,
    value_BKTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sequence_lengths: tuple[int, ...],
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    assert attention_mask is None, "the lengths alone say what is visible"
    parts = zip(*(x.split(sequence_lengths, dim=2) for x in (query_BHTE, key_BKTE, value_BKTE)), strict=True)
    blocks = [scaled_dot_product_attention(*part, is_causal=True, scale=scaling, enable_gqa=True) for part in parts]
    return torch.cat(blocks, dim=2).transpose(1, 2).contiguous(), None
