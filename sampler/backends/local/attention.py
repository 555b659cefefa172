"""Attention of packed new tokens over the slot cache, behind transformers' attention interface.

A step packs whole new prompts and single next tokens into one row of the model. A prompt attends to itself; all next
tokens attend to their cache rows in one call.
"""

# B = 1 row, T packed tokens, H query heads, K key heads, G = H / K, E head dimension; R cache rows in use, S slots;
# D next tokens (the decoding sequences)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

IMPLEMENTATION = "headway_slots"

# Terms that some architectures add to the scores or the softmax, under the names in which they arrive.
_UNSUPPORTED_TERMS = ("softcap", "s_aux", "sinks", "position_bias", "head_mask")


class UnsupportedBase(ValueError):
    """The base model does something that the local sampler would compute wrongly."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Packed tokens [start, stop) are a sequence from its beginning, for cache row `row` (None: for none). two_way:
    runs of its tokens within which each sees the others, as of Gemma 3's pictures; counted from its beginning."""

    start: int
    stop: int
    row: int | None
    two_way: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class SlotLayout:
    """Where the packed tokens of one step belong in the cache."""

    slots_2NRKSE: Tensor  # the cache, cut to the rows and the length in use
    prompts: Sequence[Prompt]
    next_tokens_D: Tensor  # packed indices of the single next tokens
    next_rows_D: Tensor  # their cache rows,
    next_positions_D: Tensor  # and their positions in them
    _masks: dict[int | None, Tensor] = field(default_factory=dict[int | None, Tensor])

    def mask(self, sliding_window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive [R, 1, 1, S]: what each row's next token sees. Rows without one see their first slot, unread."""
        if sliding_window not in self._masks:
            self._masks[sliding_window] = self._build_mask(sliding_window).to(dtype)
        return self._masks[sliding_window]

    def _build_mask(self, sliding_window: int | None) -> Tensor:
        num_rows, length = self.slots_2NRKSE.shape[2], self.slots_2NRKSE.shape[4]
        positions_R = torch.zeros(num_rows, dtype=torch.long)
        positions_R[self.next_rows_D] = self.next_positions_D
        slots_S = torch.arange(length)
        visible_RS = slots_S <= positions_R[:, None]
        if sliding_window is not None:
            visible_RS &= slots_S > positions_R[:, None] - sliding_window
        return torch.zeros(visible_RS.shape).masked_fill_(~visible_RS, -torch.inf)[:, None, None]


def register() -> None:
    """Make IMPLEMENTATION known to transformers. Idempotent. No mask function goes with it, so none is built."""
    AttentionInterface.register(IMPLEMENTATION, slot_attention)


def slot_attention(
    module: nn.Module,
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    attention_mask: Tensor | None,
    *,
    slot_layout: SlotLayout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention per sequence; writes the new keys and values into the cache, returns [B, T, H, E] and no weights.

    sliding_window: a token sees itself and the sliding_window − 1 tokens before it.
    Raises UnsupportedBase for a term that is not computed here.
    """
    assert attention_mask is None, "transformers built a mask: the layout alone says what is visible"
    for term in _UNSUPPORTED_TERMS:
        if kwargs.get(term) is not None:
            raise UnsupportedBase(f"{type(module).__name__} wants {term}, which the local sampler does not compute")
    layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
    query_HTE, key_KTE, value_KTE = query_BHTE[0], key_BKTE[0], value_BKTE[0]
    output_THE = torch.empty_like(query_HTE.transpose(0, 1), memory_format=torch.contiguous_format)
    for prompt in slot_layout.prompts:
        new = slice(prompt.start, prompt.stop)
        if prompt.row is not None:
            slot_layout.slots_2NRKSE[0, layer, prompt.row, :, : prompt.stop - prompt.start] = key_KTE[:, new]
            slot_layout.slots_2NRKSE[1, layer, prompt.row, :, : prompt.stop - prompt.start] = value_KTE[:, new]
        attended_BHTE = _within_prompt(
            query_BHTE[:, :, new],
            key_BKTE[:, :, new],
            value_BKTE[:, :, new],
            prompt.two_way,
            sliding_window,
            scaling,
        )
        output_THE[new] = attended_BHTE[0].transpose(0, 1)
    if len(slot_layout.next_tokens_D):
        output_THE[slot_layout.next_tokens_D] = _over_the_cache(
            slot_layout, layer, query_HTE, key_KTE, value_KTE, sliding_window, scaling
        )
    return output_THE[None], None


def _within_prompt(
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    two_way: Sequence[tuple[int, int]],
    sliding_window: int | None,
    scaling: float | None,
) -> Tensor:
    length = query_BHTE.shape[2]
    visibility: dict[str, Any] = {"is_causal": True}
    if sliding_window is not None and length > sliding_window:
        visible_TT = torch.ones(length, length, dtype=torch.bool).tril()
        visibility = {"attn_mask": visible_TT.triu(1 - sliding_window)}
    attend = partial(scaled_dot_product_attention, scale=scaling, enable_gqa=True)
    attended_BHTE = attend(query_BHTE, key_BKTE, value_BKTE, **visibility)
    for start, stop in two_way:  # these rows once more: all that is before the run, and all of it
        first = 0 if sliding_window is None else max(0, start + 1 - sliding_window)
        keys, rows = slice(first, stop), slice(start, stop)
        attended_BHTE[:, :, rows] = attend(
            query_BHTE[:, :, rows],
            key_BKTE[:, :, keys],
            value_BKTE[:, :, keys],
            attn_mask=_in_the_window(rows, keys, sliding_window),
        )
    return attended_BHTE


def _in_the_window(rows: slice, keys: slice, sliding_window: int | None) -> Tensor | None:
    """bool [rows, keys]: which keys are not too far before a row. None: all of them."""
    if sliding_window is None or rows.stop - keys.start <= sliding_window:
        return None
    return torch.arange(keys.start, keys.stop) > torch.arange(rows.start, rows.stop)[:, None] - sliding_window


def _over_the_cache(
    layout: SlotLayout,
    layer: int,
    query_HTE: Tensor,
    key_KTE: Tensor,
    value_KTE: Tensor,
    sliding_window: int | None,
    scaling: float | None,
) -> Tensor:
    """Attention of the single next tokens over their rows, [D, H, E]."""
    tokens_D, rows_D, positions_D = layout.next_tokens_D, layout.next_rows_D, layout.next_positions_D
    keys_RKSE, values_RKSE = layout.slots_2NRKSE[0, layer], layout.slots_2NRKSE[1, layer]
    keys_RKSE[rows_D, :, positions_D] = key_KTE[:, tokens_D].transpose(0, 1)
    values_RKSE[rows_D, :, positions_D] = value_KTE[:, tokens_D].transpose(0, 1)
    num_rows, num_key_heads, _, head_dim = keys_RKSE.shape
    num_heads = query_HTE.shape[0]
    # Queries move to where their keys are; moving rows of the cache would cost the whole cache. The G query heads
    # of a key head stand as its query positions, since all of them see the same slots.
    query_RHE = query_HTE.new_zeros(num_rows, num_heads, head_dim)
    query_RHE[rows_D] = query_HTE[:, tokens_D].transpose(0, 1)
    attended_RKGE = scaled_dot_product_attention(
        query_RHE.view(num_rows, num_key_heads, -1, head_dim),
        keys_RKSE,
        values_RKSE,
        attn_mask=layout.mask(sliding_window, query_HTE.dtype),
        scale=scaling,
    )
    return attended_RKGE.reshape(num_rows, num_heads, head_dim)[rows_D]
