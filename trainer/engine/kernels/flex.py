"""FlexAttention on CUDA: the tree as a block mask, of which only blocks that hold something are computed.

Neither its forward nor its backward adds by atomics, so that equal packs give equal bits. Lengths are padded to whole
blocks, and compiled once for all of them. FlexAttention has no backward on the CPU.
"""

# H query heads, K key heads, T packed tokens, U tokens padded to blocks, E head dimension

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad
from torch.utils._triton import has_triton

from trainer.engine.kernels.base import Kernel
from trainer.engine.prefix_tree import PrefixTree

_BLOCK = 128


class FlexKernel(Kernel):
    """Any dtype that FlexAttention takes on the device, grouped key heads included."""

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cuda" and has_triton() and torch.cuda.get_device_capability(device) >= (8, 0)

    def prepare(self, tree: PrefixTree, window: int | None, device: torch.device, dtype: torch.dtype) -> BlockMask:
        padding = -tree.num_tokens % _BLOCK
        # Padding sees itself and is seen by nobody.
        ends_U = pad(torch.from_numpy(tree.ends_T), (0, padding)).to(device)
        depths_U = pad(torch.from_numpy(tree.depths_T), (0, padding)).to(device)
        length = len(ends_U)
        begins_U = torch.arange(length, device=device)
        begins_U[: tree.num_tokens] = torch.from_numpy(tree.begins_T).to(device)

        def visible(_b: Any, _h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            seen = ((begins_U[key] <= query) & (query < ends_U[key])) | (key == query)
            return seen if window is None else seen & (depths_U[query] - depths_U[key] < window)

        # Uncompiled, it would build the T×T mask first.
        return create_block_mask(
            visible, None, None, length, length, str(device), BLOCK_SIZE=_BLOCK, _compile=device.type == "cuda"
        )

    def attend(
        self,
        query_1HTE: torch.Tensor,
        key_1KTE: torch.Tensor,
        value_1KTE: torch.Tensor,
        prepared: BlockMask,
        scale: float,
    ) -> torch.Tensor:
        num_tokens = query_1HTE.shape[2]
        attention: Any = _compiled() if query_1HTE.is_cuda else flex_attention
        padded = [pad(tensor, (0, 0, 0, -num_tokens % _BLOCK)) for tensor in (query_1HTE, key_1KTE, value_1KTE)]
        out_1HUE: Any = attention(*padded, block_mask=prepared, scale=scale, enable_gqa=True)
        return out_1HUE[:, :, :num_tokens].transpose(1, 2)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)
