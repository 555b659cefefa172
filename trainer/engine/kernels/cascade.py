"""Cascade attention on the CPU: a prefix tree as flash blocks whose results merge by log-sum-exp.

Each node is one causal block (a full one where it is two-way), and one full block in which its descendants see all of
it; no mask is built and no key is copied. Softmax over several blocks is exact by their log-sum-exps (online softmax,
arXiv:1805.02867; cascade inference, FlashInfer arXiv:2501.01005), and so is the backward: flash attention's own, block
by block, given the *global* output and log-sum-exp.

A sliding window cuts blocks into rows of queries and the keys that these can see; what a window covers only in part
gets a mask of that size. What this leaves out: terms added to the scores.
"""

# H query heads, K key heads, T packed tokens, E head dimension, Q queries of a block

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer.engine.kernels.base import Kernel
from trainer.engine.prefix_tree import Node, PrefixTree

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Rows of queries that a window's block is cut into.
_ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Queries start to stop see keys start to stop: causally, wholly, or where a mask that is added says 0.

    blind_Q marks queries that see none of them.
    """

    queries: tuple[int, int]
    keys: tuple[int, int]
    causal: bool = False
    mask_QK: torch.Tensor | None = None
    blind_Q: torch.Tensor | None = None

    @property
    def terms(self) -> dict[str, Any]:
        return {"is_causal": self.causal, "attn_mask": self.mask_QK}


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """own: each token once as a query, with itself among the keys. inherited: what nodes add for their descendants."""

    own: list[_Block]
    inherited: list[_Block]


class CascadeKernel(Kernel):
    """float64, float32 and bfloat16, grouped key heads included."""

    # A node more is two calls a layer, which cost as much as a few tokens through a small model's layers.
    min_shared = 8

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cpu"

    def prepare(self, tree: PrefixTree, window: int | None, device: torch.device, dtype: torch.dtype) -> _Blocks:
        if window is None:
            return _Blocks(
                own=[_own(node) for node in tree.nodes_M],
                inherited=[
                    _Block((node.stop, node.end), (node.start, node.stop))
                    for node in tree.nodes_M
                    if node.end > node.stop
                ],
            )
        return _Blocks(
            own=[block for node in tree.nodes_M for block in _own_rows(tree, node, window, dtype)],
            inherited=[block for node in tree.nodes_M for block in _inherited_rows(tree, node, window, dtype)],
        )

    def attend(
        self,
        query_1HTE: torch.Tensor,
        key_1KTE: torch.Tensor,
        value_1KTE: torch.Tensor,
        prepared: _Blocks,
        scale: float,
    ) -> torch.Tensor:
        return _Cascade.apply(query_1HTE, key_1KTE, value_1KTE, prepared, scale)  # pyright: ignore[reportReturnType]


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        query_1HTE: torch.Tensor,
        key_1KTE: torch.Tensor,
        value_1KTE: torch.Tensor,
        blocks: _Blocks,
        scale: float,
    ) -> torch.Tensor:
        _, num_heads, num_tokens, _ = query_1HTE.shape
        exact = torch.promote_types(query_1HTE.dtype, torch.float32)
        out_1THE = query_1HTE.new_empty((1, num_tokens, num_heads, value_1KTE.shape[3]), dtype=exact)
        out, lse = out_1THE.transpose(1, 2), query_1HTE.new_empty((1, num_tokens, num_heads), dtype=exact).mT

        def block_attention(block: _Block) -> tuple[torch.Tensor, torch.Tensor]:
            query, key, value = _at(block.queries, query_1HTE), *(_at(block.keys, t) for t in (key_1KTE, value_1KTE))
            return _flash(query, key, value, 0.0, scale=scale, **block.terms)

        for block in blocks.own:
            rows = slice(*block.queries)
            out[:, :, rows], lse[:, :, rows] = block_attention(block)
        for block in blocks.inherited:
            rows = slice(*block.queries)
            more_out, more_lse = block_attention(block)
            if block.blind_Q is not None:
                more_lse = more_lse.masked_fill(block.blind_Q, -torch.inf)
            total = torch.logaddexp(lse[:, :, rows], more_lse)
            out[:, :, rows] *= (lse[:, :, rows] - total).exp_()[..., None]
            out[:, :, rows] += more_out * (more_lse - total).exp_()[..., None]
            lse[:, :, rows] = total
        out_1THE = out_1THE.to(query_1HTE.dtype)
        ctx.blocks, ctx.scale = blocks, scale
        ctx.save_for_backward(query_1HTE, key_1KTE, value_1KTE, out_1THE, lse)
        return out_1THE

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_1THE: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query, key, value, out_1THE, lse = ctx.saved_tensors
        gradient, out = gradient_1THE.transpose(1, 2), out_1THE.transpose(1, 2)
        slopes = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        for block in (*ctx.blocks.own, *ctx.blocks.inherited):
            q, k = block.queries, block.keys
            found = _flash_backward(
                *(_at(q, gradient), _at(q, query), _at(k, key), _at(k, value), _at(q, out), _at(q, lse)),
                *(0.0, block.causal),
                attn_mask=block.mask_QK,
                scale=ctx.scale,
            )
            for slope, at, more in zip(slopes, (q, k, k), found, strict=True):
                _at(at, slope).add_(more)
        return slopes[0], slopes[1], slopes[2], None, None


def _at(span: tuple[int, int], tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:, :, span[0] : span[1]]


def _own(node: Node) -> _Block:
    return _Block((node.start, node.stop), (node.start, node.stop), causal=not node.two_way)


def _own_rows(tree: PrefixTree, node: Node, window: int, dtype: torch.dtype) -> Iterator[_Block]:
    if node.stop - node.start <= window:
        yield _own(node)
        return
    alike: dict[tuple[int, int, int], _Block] = {}  # on one path
    for start in range(node.start, node.stop, _ROWS):
        queries = start, min(start + _ROWS, node.stop)
        keys = max(node.start, start - window + 1), node.stop if node.two_way else queries[1]
        shape = queries[1] - queries[0], keys[1] - keys[0], queries[0] - keys[0]
        if shape not in alike:
            alike[shape] = _masked(tree, queries, keys, window, dtype, two_way=node.two_way)
        yield replace(alike[shape], queries=queries, keys=keys)


def _inherited_rows(tree: PrefixTree, node: Node, window: int, dtype: torch.dtype) -> Iterator[_Block]:
    for start in range(node.stop, node.end, _ROWS):
        queries = start, min(start + _ROWS, node.end)
        shallowest = int(tree.depths_T[slice(*queries)].min())
        above = shallowest - window + 1 - int(tree.depths_T[node.start])
        keys = node.start + max(0, above), node.stop
        if keys[0] < keys[1]:
            yield _masked(tree, queries, keys, window, dtype)


def _masked(
    tree: PrefixTree,
    queries: tuple[int, int],
    keys: tuple[int, int],
    window: int,
    dtype: torch.dtype,
    *,
    two_way: bool = False,
) -> _Block:
    distances_QK = tree.depths_T[slice(*queries), None] - tree.depths_T[None, slice(*keys)]
    visible_QK = distances_QK < window if two_way else (distances_QK >= 0) & (distances_QK < window)
    if visible_QK.all():
        return _Block(queries, keys)
    mask_QK = torch.zeros(visible_QK.shape, dtype=dtype).masked_fill_(~torch.from_numpy(visible_QK), -torch.inf)
    seeing_Q = visible_QK.any(axis=1)
    return _Block(queries, keys, mask_QK=mask_QK, blind_Q=None if seeing_Q.all() else torch.from_numpy(~seeing_Q))
