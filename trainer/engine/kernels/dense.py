"""Attention under a T×T mask: slower and larger than the others, but it runs on every device."""

# H query heads, K key heads, T packed tokens, E head dimension

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from trainer.engine.kernels.base import Kernel
from trainer.engine.prefix_tree import PrefixTree


class DenseKernel(Kernel):
    """The definition, by the letter."""

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return True

    def prepare(self, tree: PrefixTree, window: int | None, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        ends_T, depths_T = (torch.from_numpy(array).to(device) for array in (tree.ends_T, tree.depths_T))
        tokens_T = torch.arange(tree.num_tokens, device=device)
        begins_T = torch.from_numpy(tree.begins_T).to(device)
        visible_TT = (begins_T <= tokens_T[:, None]) & (tokens_T[:, None] < ends_T)
        return visible_TT if window is None else visible_TT & (depths_T[:, None] - depths_T < window)

    def attend(
        self,
        query_1HTE: torch.Tensor,
        key_1KTE: torch.Tensor,
        value_1KTE: torch.Tensor,
        prepared: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        out_1HTE = scaled_dot_product_attention(
            query_1HTE, key_1KTE, value_1KTE, attn_mask=prepared, scale=scale, enable_gqa=True
        )
        return out_1HTE.transpose(1, 2)
