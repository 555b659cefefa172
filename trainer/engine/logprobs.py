"""Log-probabilities of sampled tokens from hidden states, without logits that outlive a chunk.

With a frozen unembedding W, the gradient of a token's logprob with respect to its hidden state h is one vector,
u = W[y] − pᵀW with p the softmax of Wh. It is computed in the forward, where p is at hand, and kept; the backward is
then g · u for any loss whatever. Where W itself is trained, its gradient needs p again, so the backward recomputes
the logits, chunk by chunk.
"""

# T packed tokens, P predictions, C predictions of a chunk, D hidden size, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Elements of one chunk's [C, V] logits: 32 MiB in float32 on a CPU, and 512 MiB on other devices, which need longer
# rows to be busy. Fixed, since other GEMM shapes give other bits.
_CHUNK_ELEMENTS = {"cpu": 1 << 23}
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 27


def action_logprobs(
    hidden_TD: torch.Tensor, rows_P: torch.Tensor, targets_P: torch.Tensor, weight_VD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each target and entropy of the distribution it was drawn from, in nats: logprobs_P, entropies_P.

    Computed in the dtype of weight_VD, to which hidden states are cast (float32; float64 for a float64 model).
    Gradient flows from logprobs_P to hidden_TD, and to weight_VD if that wants one; entropies_P is detached.
    """
    hidden_PD = hidden_TD.index_select(0, rows_P).to(weight_VD.dtype)
    head = _RecomputingHead if weight_VD.requires_grad else _OnePassHead
    return head.apply(hidden_PD, weight_VD, targets_P)  # pyright: ignore[reportReturnType]


class _OnePassHead(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden_PD: torch.Tensor, weight_VD: torch.Tensor, targets_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_P, entropies_P = (hidden_PD.new_empty(len(hidden_PD)) for _ in range(2))
        slopes_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        for at in _chunks(hidden_PD, weight_VD):
            targets_C = targets_P[at]
            logprobs_CV = _all_logprobs(hidden_PD[at], weight_VD)
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
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden_PD: torch.Tensor, weight_VD: torch.Tensor, targets_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_P, entropies_P = _OnePassHead.forward(_Frozen(), hidden_PD, weight_VD, targets_P)
        ctx.save_for_backward(hidden_PD, weight_VD, targets_P)
        ctx.mark_non_differentiable(entropies_P)
        return logprobs_P, entropies_P

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_P: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden_PD, weight_VD, targets_P = ctx.saved_tensors
        hidden_gradient_PD, weight_gradient_VD = torch.empty_like(hidden_PD), torch.zeros_like(weight_VD)
        for at in _chunks(hidden_PD, weight_VD):
            # dC/dlogits: each row is g · (onehot(target) − p).
            slopes_CV = _all_logprobs(hidden_PD[at], weight_VD).exp_().neg_()
            slopes_CV[torch.arange(len(slopes_CV), device=slopes_CV.device), targets_P[at]] += 1
            slopes_CV *= gradient_P[at, None]
            torch.mm(slopes_CV, weight_VD, out=hidden_gradient_PD[at])
            weight_gradient_VD.addmm_(slopes_CV.T, hidden_PD[at])
        return hidden_gradient_PD, weight_gradient_VD, None


class _Frozen:
    """The context of a forward that nothing is kept of."""

    needs_input_grad = (False, False, False)

    def mark_non_differentiable(self, *_: torch.Tensor) -> None: ...


def _chunks(hidden_PD: torch.Tensor, weight_VD: torch.Tensor) -> Iterator[slice]:
    elements = _CHUNK_ELEMENTS.get(hidden_PD.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    length = max(1, elements // len(weight_VD))
    return (slice(start, start + length) for start in range(0, len(hidden_PD), length))


def _all_logprobs(hidden_CD: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    logprobs_CV = hidden_CD @ weight_VD.T
    logprobs_CV -= logprobs_CV.logsumexp(dim=1, keepdim=True)
    return logprobs_CV
