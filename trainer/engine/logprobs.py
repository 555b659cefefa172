"""Log-probabilities of sampled tokens from hidden states, without logits that outlive a chunk.

With a frozen unembedding W, the gradient of a token's logprob with respect to its hidden state h is one vector,
u = W[y] − pᵀW with p the softmax of Wh. It is computed in the forward, where p is at hand, and kept; the backward is
then g · u for any loss whatever. Where the unembedding itself is trained, W or a low-rank update of it, its gradient
needs p again, so the backward recomputes the logits, chunk by chunk. So it does where several targets share a row of
logits: the row is computed once forwards and once backwards, however many they are.
"""

# T packed tokens, P predictions, H rows of logits (one a prediction unless rows are shared), C rows of a chunk,
# D hidden size, R rank, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Elements of one chunk's [C, V] logits: 32 MiB in float32 on a CPU, and 512 MiB on other devices, which need longer
# rows to be busy. Fixed, since other GEMM shapes give other bits.
_CHUNK_ELEMENTS = {"cpu": 1 << 23}
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 27


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
    weight_VD: torch.Tensor,
    *,
    share_rows: bool = False,
    update: HeadUpdate | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each target and entropy of the distribution it was drawn from, in nats: logprobs_P, entropies_P.

    Computed in the dtype of weight_VD, to which hidden states are cast (float32; float64 for a float64 model).
    Gradient flows from logprobs_P to hidden_TD, and to weight_VD and the update's factors if they want one;
    entropies_P is detached. share_rows: neighbours in rows_P that are equal share a row of logits.
    """
    if not (share_rows or update or weight_VD.requires_grad):
        hidden_PD = hidden_TD.index_select(0, rows_P).to(weight_VD.dtype)
        return _OnePassHead.apply(hidden_PD, weight_VD, targets_P)  # pyright: ignore[reportReturnType]
    rows_H, heads_P = rows_P, torch.arange(len(rows_P), device=rows_P.device)
    if share_rows:
        rows_H, heads_P = torch.unique_consecutive(rows_P, return_inverse=True)
    hidden_HD = hidden_TD.index_select(0, rows_H).to(weight_VD.dtype)
    a_RD, b_VR, scale = (update.a_RD, update.b_VR, update.scale) if update else (None, None, 0.0)
    return _RecomputingHead.apply(  # pyright: ignore[reportReturnType]
        hidden_HD, weight_VD, a_RD, b_VR, scale, heads_P, targets_P
    )


def all_logprobs(hidden_CD: torch.Tensor, weight_VD: torch.Tensor, update: HeadUpdate | None = None) -> torch.Tensor:
    """Logprobs of the whole vocabulary, [C, V], without a graph."""
    with torch.no_grad():
        logprobs_CV = hidden_CD @ weight_VD.T
        if update is not None:
            logprobs_CV.addmm_(hidden_CD @ update.a_RD.T, update.b_VR.T, alpha=update.scale)
        logprobs_CV -= logprobs_CV.logsumexp(dim=1, keepdim=True)
        return logprobs_CV


class _OnePassHead(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden_PD: torch.Tensor, weight_VD: torch.Tensor, targets_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_P, entropies_P = (hidden_PD.new_empty(len(hidden_PD)) for _ in range(2))
        slopes_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        for at in _chunks(hidden_PD, weight_VD):
            targets_C = targets_P[at]
            logprobs_CV = all_logprobs(hidden_PD[at], weight_VD)
            logprobs_P[at] = logprobs_CV.gather(1, targets_C[:, None])[:, 0]
            p_CV = logprobs_CV.exp()
            entropies_P[at] = -torch.einsum("cv,cv->c", p_CV, logprobs_CV)
            if slopes_PD is not None:
                torch.addmm(weight_VD[targets_C], p_CV, weight_VD, alpha=-1, out=slopes_PD[at])
        if slopes_PD is not None:
            ctx.save_for_backward(slopes_PD)
        ctx.mark_non_differentiable(entropies_P)
        return logprobs_P, entropies_P

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_P: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        (slopes_PD,) = ctx.saved_tensors
        return gradient_P[:, None] * slopes_PD, None, None


class _RecomputingHead(torch.autograd.Function):
    """heads_P: ascending, the row of logits that each prediction reads."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_HD: torch.Tensor,
        weight_VD: torch.Tensor,
        a_RD: torch.Tensor | None,
        b_VR: torch.Tensor | None,
        scale: float,
        heads_P: torch.Tensor,
        targets_P: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        update = None if a_RD is None or b_VR is None else HeadUpdate(a_RD, b_VR, scale)
        logprobs_P, entropies_P = (hidden_HD.new_empty(len(heads_P)) for _ in range(2))
        for at, of in _predictions_by_chunk(hidden_HD, weight_VD, heads_P):
            heads = heads_P[of] - at.start
            logprobs_CV = all_logprobs(hidden_HD[at], weight_VD, update)
            logprobs_P[of] = logprobs_CV[heads, targets_P[of]]
            entropies_P[of] = -torch.einsum("cv,cv->c", logprobs_CV.exp(), logprobs_CV)[heads]
        ctx.save_for_backward(hidden_HD, heads_P, targets_P)
        # Not saved as what a pass keeps: they are there without it, however long it is.
        ctx.weight_VD, ctx.update = weight_VD, update
        ctx.mark_non_differentiable(entropies_P)
        return logprobs_P, entropies_P

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_P: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_HD, heads_P, targets_P = ctx.saved_tensors
        weight_VD, update = ctx.weight_VD, ctx.update
        factors = (update.a_RD, update.b_VR) if update else (None, None)
        wanted = zip((hidden_HD, weight_VD, *factors), ctx.needs_input_grad, strict=False)
        found = [torch.zeros_like(tensor) if tensor is not None and wants else None for tensor, wants in wanted]
        for at, of in _predictions_by_chunk(hidden_HD, weight_VD, heads_P):
            slopes_CV = all_logprobs(hidden_HD[at], weight_VD, update).exp_().neg_()
            _weigh(slopes_CV, heads_P[of] - at.start, targets_P[of], gradient_P[of])
            _add_gradients(found, slopes_CV, at, hidden_HD[at], weight_VD, update)
        return *found, None, None, None


def _weigh(slopes_CV: torch.Tensor, heads: torch.Tensor, targets: torch.Tensor, gradient: torch.Tensor) -> None:
    """From −p of each row, dC/dlogits: the sum over its predictions of g · (onehot(target) − p)."""
    totals_C = gradient.new_zeros(len(slopes_CV)).index_put_((heads,), gradient, accumulate=True)
    slopes_CV *= totals_C[:, None]
    slopes_CV.index_put_((heads, targets), gradient, accumulate=True)


def _add_gradients(
    found: list[torch.Tensor | None],
    slopes_CV: torch.Tensor,
    at: slice,
    hidden_CD: torch.Tensor,
    weight_VD: torch.Tensor,
    update: HeadUpdate | None,
) -> None:
    """Add a chunk's to those of hidden states, weight and factors; None is not wanted."""
    to_hidden, to_weight, to_a, to_b = found
    if to_hidden is not None:
        to_hidden[at] += slopes_CV @ weight_VD
    if to_weight is not None:
        to_weight.addmm_(slopes_CV.T, hidden_CD)
    if update is None:
        return
    slopes_CR = slopes_CV @ update.b_VR
    if to_hidden is not None:
        to_hidden[at].addmm_(slopes_CR, update.a_RD, alpha=update.scale)
    if to_a is not None:
        to_a.addmm_(slopes_CR.T, hidden_CD, alpha=update.scale)
    if to_b is not None:
        to_b.addmm_(slopes_CV.T, hidden_CD @ update.a_RD.T, alpha=update.scale)


def _predictions_by_chunk(
    hidden_HD: torch.Tensor, weight_VD: torch.Tensor, heads_P: torch.Tensor
) -> Iterator[tuple[slice, slice]]:
    """Chunks of rows, and the predictions that read them."""
    chunks = list(_chunks(hidden_HD, weight_VD))
    starts = torch.tensor([chunk.start for chunk in chunks], device=heads_P.device)
    edges = [*torch.searchsorted(heads_P, starts).tolist(), len(heads_P)]
    return zip(chunks, map(slice, edges, edges[1:]), strict=False)


def _chunks(hidden_PD: torch.Tensor, weight_VD: torch.Tensor) -> Iterator[slice]:
    elements = _CHUNK_ELEMENTS.get(hidden_PD.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    length = max(1, elements // len(weight_VD))
    return (slice(start, start + length) for start in range(0, len(hidden_PD), length))
