"""Log-probabilities of sampled tokens from hidden states, in one pass and without logits that outlive a chunk.

With a frozen unembedding W, the gradient of a token's logprob with respect to its hidden state h is one vector,
u = W[y] − pᵀW with p the softmax of Wh. It is computed in the forward, where p is at hand, and kept; the backward is
then g · u for any loss whatever. What this leaves out: gradients of W itself.
"""

# T packed tokens, P predictions, C predictions of a chunk, D hidden size, V vocabulary

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Elements of one chunk's [C, V] logits: 64 MiB in float32. Fixed, since other GEMM shapes give other bits.
_CHUNK_ELEMENTS = 1 << 24


def action_logprobs(
    hidden_TD: torch.Tensor, rows_P: torch.Tensor, targets_P: torch.Tensor, weight_VD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each target and entropy of the distribution it was drawn from, in nats: logprobs_P, entropies_P.

    Computed in the dtype of weight_VD, to which hidden states are cast (float32; float64 for a float64 model).
    Gradient flows from logprobs_P to hidden_TD; entropies_P is detached, weight_VD is taken as frozen.
    """
    hidden_PD = hidden_TD.index_select(0, rows_P).to(weight_VD.dtype)
    return _OnePassHead.apply(hidden_PD, weight_VD, targets_P)  # pyright: ignore[reportReturnType]


class _OnePassHead(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden_PD: torch.Tensor, weight_VD: torch.Tensor, targets_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_P, entropies_P = (hidden_PD.new_empty(len(hidden_PD)) for _ in range(2))
        wants_gradient = ctx.needs_input_grad[0]
        slopes_PD = torch.empty_like(hidden_PD) if wants_gradient else None
        chunk = max(1, _CHUNK_ELEMENTS // len(weight_VD))
        for start in range(0, len(hidden_PD), chunk):
            at = slice(start, start + chunk)
            targets_C = targets_P[at]
            logprobs_CV = hidden_PD[at] @ weight_VD.T
            logprobs_CV -= logprobs_CV.logsumexp(dim=1, keepdim=True)
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
