"""Log-probabilities of sampled tokens from hidden states, by blocks of the vocabulary and chunks of tokens.

Each block of the unembedding W is read once, and cast to float32 while it is used; a token's softmax grows with the
blocks, as in FlashAttention (arXiv:2205.14135): what was summed under the blocks before is scaled by how much the next
one adds. Logits do not outlive a chunk of tokens.

With a frozen unembedding, the gradient of a token's logprob with respect to its hidden state h is one vector,
u = W[y] − pᵀW with p the softmax of Wh. It is computed in the forward, where p is at hand, and kept; the backward is
then g · u for any loss whatever. Where the unembedding itself is trained, W or a low-rank update of it, its gradient
needs p again, so the backward recomputes the logits, block by block. So it does where several targets share a row of
logits: the row is computed once forwards and once backwards, however many they are.
"""

# T packed tokens, P predictions, H rows of logits (one a prediction unless rows are shared), C rows of a chunk,
# D hidden size, R rank, V vocabulary, B rows of a block of it

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.autograd.function import once_differentiable

from trainer.engine.products import TORCH, Products
from trainer.engine.unembedding import Unembedding, WholeUnembedding, exact_dtype, places_in

# Elements of one chunk's [C, B] logits: 32 MiB in float32 on a CPU, and 512 MiB on other devices, which need longer
# rows to be busy. Fixed, since other GEMM shapes give other bits.
_CHUNK_ELEMENTS = {"cpu": 1 << 23}
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 27

_Chunk: TypeAlias = tuple[slice, slice, torch.Tensor]
"""Rows of logits, the predictions that read them, and which row of the chunk each reads."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadUpdate:
    """LoRA on the unembedding: logits are (W + scale · BA)h."""

    a_RD: torch.Tensor
    b_VR: torch.Tensor
    scale: float


def action_logprobs(
    hidden_TD: torch.Tensor,
    rows_P: torch.Tensor,
    targets_P: torch.Tensor,
    unembedding: Unembedding,
    *,
    share_rows: bool = False,
    update: HeadUpdate | None = None,
    products: Products = TORCH,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each target and entropy of the distribution it was drawn from, in nats: logprobs_P, entropies_P.

    Computed in the `exact_dtype` of the unembedding, to which hidden states are cast. Gradient flows from logprobs_P to
    hidden_TD, and to a whole unembedding and the update's factors if they want one; entropies_P is detached.
    share_rows: neighbours in rows_P that are equal share a row of logits.
    """
    dtype = exact_dtype(unembedding.dtype)
    weight_VD = unembedding.weight_VD if isinstance(unembedding, WholeUnembedding) else None
    is_trained = weight_VD is not None and weight_VD.requires_grad
    if not (share_rows or update or is_trained):
        hidden_PD = hidden_TD.index_select(0, rows_P).to(dtype)
        return _OnePassHead.apply(hidden_PD, unembedding, products, targets_P)  # pyright: ignore[reportReturnType]
    rows_H, heads_P = rows_P, torch.arange(len(rows_P), device=rows_P.device)
    if share_rows:
        rows_H, heads_P = torch.unique_consecutive(rows_P, return_inverse=True)
    hidden_HD = hidden_TD.index_select(0, rows_H).to(dtype)
    a_RD, b_VR, scale = (update.a_RD, update.b_VR, update.scale) if update else (None, None, 0.0)
    return _RecomputingHead.apply(  # pyright: ignore[reportReturnType]
        hidden_HD, weight_VD, a_RD, b_VR, scale, unembedding, products, heads_P, targets_P
    )


def all_logits(
    hidden_CD: torch.Tensor,
    unembedding: Unembedding,
    update: HeadUpdate | None = None,
    products: Products = TORCH,
) -> torch.Tensor:
    """Logits of the whole vocabulary, [C, V], without a graph, in the `exact_dtype` of the unembedding."""
    with torch.no_grad():
        hidden_CD = hidden_CD.to(exact_dtype(unembedding.dtype))
        parts = [products.linear(hidden_CD, stored_BD.to(hidden_CD.dtype)) for _, stored_BD in unembedding.blocks()]
        logits_CV = torch.cat(parts, dim=1)
        if update is not None:
            logits_CV += update.scale * (hidden_CD @ update.a_RD.T @ update.b_VR.T)
        return logits_CV


def chunk_length(unembedding: Unembedding, device: torch.device) -> int:
    """C: of how many rows logits are there at once."""
    elements = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    return max(1, elements // unembedding.block_rows)


class _Block:
    """A block of the vocabulary in the dtype of logits, which it has for as long as it is used."""

    def __init__(
        self,
        ids: range,
        stored_BD: torch.Tensor,
        dtype: torch.dtype,
        products: Products,
        update: HeadUpdate | None,
    ) -> None:
        self.ids = ids
        self.weight_BD = stored_BD.to(dtype)
        self.products = products
        self.update = update and HeadUpdate(update.a_RD, update.b_VR[ids.start : ids.stop], update.scale)

    def logits(self, hidden_CD: torch.Tensor) -> torch.Tensor:
        logits_CB = self.products.linear(hidden_CD, self.weight_BD)
        if self.update is not None:
            inner_CR = self.products.linear(hidden_CD, self.update.a_RD)
            self.products.add_(logits_CB, inner_CR, self.update.b_VR.T, times=self.update.scale)
        return logits_CB


class _Softmax:
    """Of rows of logits, under the blocks seen so far: the logarithm of its normaliser, and its entropy."""

    def __init__(self, like_HD: torch.Tensor) -> None:
        self.normalisers_H, self.entropies_H = (like_HD.new_empty(len(like_HD)) for _ in range(2))

    def take_in(self, at: slice, logits_CB: torch.Tensor, *, is_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """p_CB of the next block's tokens among all seen so far, and decay_C, by which what was summed before it
        shrinks. Logits become logprobs."""
        normalisers_C = logits_CB.logsumexp(dim=1)
        if not is_first:
            normalisers_C = torch.logaddexp(self.normalisers_H[at], normalisers_C)
        logprobs_CB = logits_CB.sub_(normalisers_C[:, None])
        p_CB = logprobs_CB.exp()
        entropies_C = -torch.einsum("cb,cb->c", p_CB, logprobs_CB)
        decay_C = torch.zeros_like(normalisers_C)
        if not is_first:
            shift_C = self.normalisers_H[at] - normalisers_C
            decay_C = shift_C.exp()
            entropies_C += decay_C * (self.entropies_H[at] - shift_C)
        self.normalisers_H[at], self.entropies_H[at] = normalisers_C, entropies_C
        return p_CB, decay_C


def _forward(
    hidden_HD: torch.Tensor,
    unembedding: Unembedding,
    products: Products,
    chunks: Sequence[_Chunk],
    targets_P: torch.Tensor,
    update: HeadUpdate | None = None,
    slopes_HD: torch.Tensor | None = None,
) -> tuple[torch.Tensor, _Softmax]:
    """logprobs_P, and the softmax of each row. slopes_HD: zeros, where u of each row comes to, which one prediction
    reads."""
    logits_P, softmax = hidden_HD.new_empty(len(targets_P)), _Softmax(hidden_HD)
    targets_HD = None if slopes_HD is None else torch.empty_like(hidden_HD, dtype=unembedding.dtype)
    for ids, stored_BD in unembedding.blocks():
        block = _Block(ids, stored_BD, hidden_HD.dtype, products, update)
        is_first, is_last = ids.start == 0, ids.stop == unembedding.num_rows
        for at, of, heads in chunks:
            logits_CB = block.logits(hidden_HD[at])
            places, is_here = places_in(ids, targets_P[of])
            logits_P[of] = torch.where(is_here, logits_CB[heads, places], logits_P[of])
            p_CB, decay_C = softmax.take_in(at, logits_CB, is_first=is_first)
            if slopes_HD is None or targets_HD is None:
                continue
            targets_HD[at] = torch.where(is_here[:, None], stored_BD[places], targets_HD[at])
            slopes_HD[at] *= decay_C[:, None]
            if is_last:  # no block makes less of the targets' rows of W any more
                slopes_HD[at] += targets_HD[at]
            products.add_(slopes_HD[at], p_CB, block.weight_BD, times=-1)
    for at, of, heads in chunks:
        logits_P[of] -= softmax.normalisers_H[at][heads]
    return logits_P, softmax


class _OnePassHead(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden_PD: torch.Tensor, unembedding: Unembedding, products: Products, targets_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slopes_PD = torch.zeros_like(hidden_PD) if ctx.needs_input_grad[0] else None
        chunks = _chunks_of_predictions(hidden_PD, unembedding)
        logprobs_P, softmax = _forward(hidden_PD, unembedding, products, chunks, targets_P, slopes_HD=slopes_PD)
        if slopes_PD is not None:
            ctx.save_for_backward(slopes_PD)
        ctx.mark_non_differentiable(softmax.entropies_H)
        return logprobs_P, softmax.entropies_H

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_P: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        (slopes_PD,) = ctx.saved_tensors
        return gradient_P[:, None] * slopes_PD, None, None, None


class _RecomputingHead(torch.autograd.Function):
    """heads_P: ascending, the row of logits that each prediction reads."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_HD: torch.Tensor,
        weight_VD: torch.Tensor | None,
        a_RD: torch.Tensor | None,
        b_VR: torch.Tensor | None,
        scale: float,
        unembedding: Unembedding,
        products: Products,
        heads_P: torch.Tensor,
        targets_P: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        update = None if a_RD is None or b_VR is None else HeadUpdate(a_RD, b_VR, scale)
        chunks = _chunks_of_rows(hidden_HD, unembedding, heads_P)
        logprobs_P, softmax = _forward(hidden_HD, unembedding, products, chunks, targets_P, update)
        ctx.save_for_backward(hidden_HD, softmax.normalisers_H, heads_P, targets_P)
        # Not saved as what a pass keeps: they are there without it, however long it is.
        ctx.weight_VD, ctx.update, ctx.unembedding, ctx.products = weight_VD, update, unembedding, products
        entropies_P = softmax.entropies_H[heads_P]
        ctx.mark_non_differentiable(entropies_P)
        return logprobs_P, entropies_P

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_P: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_HD, normalisers_H, heads_P, targets_P = ctx.saved_tensors
        update, unembedding, products = ctx.update, ctx.unembedding, ctx.products
        factors = (update.a_RD, update.b_VR) if update else (None, None)
        wanted = zip((hidden_HD, ctx.weight_VD, *factors), ctx.needs_input_grad, strict=False)
        found = [torch.zeros_like(tensor) if tensor is not None and wants else None for tensor, wants in wanted]
        chunks = _chunks_of_rows(hidden_HD, unembedding, heads_P)
        for ids, stored_BD in unembedding.blocks():
            block = _Block(ids, stored_BD, hidden_HD.dtype, products, update)
            for at, of, heads in chunks:
                slopes_CB = block.logits(hidden_HD[at]).sub_(normalisers_H[at][:, None]).exp_().neg_()
                places, is_here = places_in(ids, targets_P[of])
                _weigh(slopes_CB, heads, gradient_P[of], places, is_here)
                _add_gradients(found, slopes_CB, at, hidden_HD[at], block)
        return *found, None, None, None, None, None


def _weigh(
    slopes_CB: torch.Tensor, heads: torch.Tensor, gradient: torch.Tensor, places: torch.Tensor, is_here: torch.Tensor
) -> None:
    """From −p of each row, dC/dlogits: the sum over its predictions of g · (onehot(target) − p)."""
    totals_C = gradient.new_zeros(len(slopes_CB)).index_put_((heads,), gradient, accumulate=True)
    slopes_CB *= totals_C[:, None]
    slopes_CB.index_put_((heads, places), torch.where(is_here, gradient, 0), accumulate=True)


def _add_gradients(
    found: Sequence[torch.Tensor | None], slopes_CB: torch.Tensor, at: slice, hidden_CD: torch.Tensor, block: _Block
) -> None:
    """Add a chunk's to those of hidden states, weight and factors; None is not wanted."""
    to_hidden, to_weight, to_a, to_b = found
    rows, update, products = slice(block.ids.start, block.ids.stop), block.update, block.products
    if to_hidden is not None:
        to_hidden[at] += products.multiply(slopes_CB, block.weight_BD)
    if to_weight is not None:
        products.add_(to_weight[rows], slopes_CB.T, hidden_CD)
    if update is None:
        return
    slopes_CR = products.multiply(slopes_CB, update.b_VR)
    if to_hidden is not None:
        products.add_(to_hidden[at], slopes_CR, update.a_RD, times=update.scale)
    if to_a is not None:
        products.add_(to_a, slopes_CR.T, hidden_CD, times=update.scale)
    if to_b is not None:
        products.add_(to_b[rows], slopes_CB.T, products.linear(hidden_CD, update.a_RD), times=update.scale)


def _chunks_of_predictions(hidden_PD: torch.Tensor, unembedding: Unembedding) -> list[_Chunk]:
    """Of rows that one prediction each reads."""
    slices = _slices(hidden_PD, unembedding)
    return [(at, at, torch.arange(len(hidden_PD[at]), device=hidden_PD.device)) for at in slices]


def _chunks_of_rows(hidden_HD: torch.Tensor, unembedding: Unembedding, heads_P: torch.Tensor) -> list[_Chunk]:
    slices = _slices(hidden_HD, unembedding)
    starts = torch.tensor([at.start for at in slices], device=heads_P.device)
    edges = [*torch.searchsorted(heads_P, starts).tolist(), len(heads_P)]
    read = map(slice, edges, edges[1:])
    return [(at, of, heads_P[of] - at.start) for at, of in zip(slices, read, strict=True)]


def _slices(hidden_HD: torch.Tensor, unembedding: Unembedding) -> list[slice]:
    length = chunk_length(unembedding, hidden_HD.device)
    return [slice(start, start + length) for start in range(0, len(hidden_HD), length)]
