"""From logits to tokens: temperature, top-k, top-p, and one uniform number a row through the inverse of the CDF.

Logprobs are those of the distribution sampled from. At temperature 0 that would be all zeros, so greedy rows report
the plain log-softmax at temperature 1, as vLLM's `processed_logprobs` does.
"""

# N rows (one a sequence), V vocabulary, M of the N rows, W the most likely tokens looked at, C chunks of the vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NUCLEUS_WIDTH = 1024
_CDF_CHUNK = 256
_LARGEST_UNIFORM = 1.0 - 1e-12


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How one row is sampled. `uniform` is from [0, 1), unused when greedy; `banned` cannot be drawn, nor, where it is
    given, anything that `allowed_V` (boolean) leaves out."""

    temperature: float
    top_k: int
    top_p: float
    uniform: float
    top_logprobs: int
    banned: Sequence[int] = ()
    allowed_V: Tensor | None = None

    @property
    def restricted(self) -> bool:
        """Whether top-k or top-p takes tokens out."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1.0)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """What was drawn, its logprob in nats, and the row's most likely (token id, logprob) as far as asked for."""

    token_id: int
    logprob: float
    alternatives: list[tuple[int, float]]


def sample_tokens(logits_NV: Tensor, rows: Sequence[RowSampling]) -> list[SampledToken]:
    """One token a row. The logits are overwritten when they are float32. A row that is not finite has logprob NaN."""
    logits_NV = logits_NV.float()
    _ban(logits_NV, rows)
    if any(row.temperature not in (0.0, 1.0) for row in rows):
        logits_NV /= torch.tensor([row.temperature or 1.0 for row in rows])[:, None]
    _restrict(logits_NV, rows)
    logprobs_NV = logits_NV.log_softmax(-1)
    token_ids_N = _draw(logprobs_NV, rows)
    logprobs_N = logprobs_NV.gather(1, token_ids_N[:, None])[:, 0]
    alternatives = _alternatives(logprobs_NV, rows)
    return [SampledToken(*drawn) for drawn in zip(token_ids_N.tolist(), logprobs_N.tolist(), alternatives, strict=True)]


def _ban(logits_NV: Tensor, rows: Sequence[RowSampling]) -> None:
    for index, row in enumerate(rows):
        if row.banned:
            logits_NV[index, list(row.banned)] = -torch.inf
        if row.allowed_V is not None:
            logits_NV[index].masked_fill_(~row.allowed_V, -torch.inf)


def _restrict(logits_NV: Tensor, rows: Sequence[RowSampling]) -> None:
    """Set what top-k and then top-p leave out to −inf, in place."""
    restricted = [(index, row) for index, row in enumerate(rows) if row.restricted]
    if not restricted:
        return
    indices_M = torch.tensor([index for index, _ in restricted])
    top_k_M = torch.tensor([row.top_k or logits_NV.shape[1] for _, row in restricted])
    top_p_M = torch.tensor([row.top_p for _, row in restricted], dtype=torch.float64)
    logits_MV = logits_NV[indices_M]
    logits_NV[indices_M] = logits_MV.masked_fill(~_kept(logits_MV, top_k_M, top_p_M), -torch.inf)


def _kept(logits_MV: Tensor, top_k_M: Tensor, top_p_M: Tensor) -> Tensor:
    """Boolean [M, V]: the top_k largest, and of those the fewest that hold top_p of their probability."""
    vocab_size = logits_MV.shape[1]
    for width in (min(vocab_size, _NUCLEUS_WIDTH), vocab_size):  # sorting a large vocabulary is slow, and seldom needed
        top_MW, ids_MW = logits_MV.topk(width, dim=-1)
        in_top_k_MW = torch.arange(width) < top_k_M[:, None]
        top_MW = top_MW.masked_fill(~in_top_k_MW, -torch.inf)
        # Without a top-k below the width, the tail beyond it takes its share of the probability too.
        whole_M = torch.where(top_k_M <= width, top_MW.logsumexp(-1), logits_MV.logsumexp(-1))
        probs_MW = (top_MW.double() - whole_M.double()[:, None]).exp()
        before_MW = probs_MW.cumsum(-1) - probs_MW
        inside_MW = in_top_k_MW & ((before_MW < top_p_M[:, None]) | (top_p_M >= 1.0)[:, None])
        if width == vocab_size or not inside_MW[:, -1].any():
            break
    inside_MW[:, 0] = True
    return torch.zeros_like(logits_MV, dtype=torch.bool).scatter_(1, ids_MW, inside_MW)


def _draw(logprobs_NV: Tensor, rows: Sequence[RowSampling]) -> Tensor:
    """Token ids [N]: the first whose cumulative probability exceeds the row's uniform number, or the most likely."""
    if all(row.temperature == 0 for row in rows):
        return logprobs_NV.argmax(-1)
    uniforms_N = torch.tensor([min(row.uniform, _LARGEST_UNIFORM) for row in rows], dtype=torch.float64)
    token_ids_N = _inverse_cdf(logprobs_NV.exp(), uniforms_N)
    greedy_N = torch.tensor([row.temperature == 0 for row in rows])
    return torch.where(greedy_N, logprobs_NV.argmax(-1), token_ids_N) if greedy_N.any() else token_ids_N


def _inverse_cdf(probs_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """In two steps, first the chunk, then the token in it: float64 sums, without a float64 copy of [N, V]."""
    num_rows, vocab_size = probs_NV.shape
    padded_NCW = torch.nn.functional.pad(probs_NV, (0, -vocab_size % _CDF_CHUNK)).view(num_rows, -1, _CDF_CHUNK)
    chunk_cdf_NC = padded_NCW.sum(-1, dtype=torch.float64).cumsum(-1)
    targets_N1 = uniforms_N[:, None] * chunk_cdf_NC[:, -1:]
    chunks_N1 = torch.searchsorted(chunk_cdf_NC, targets_N1, right=True).clamp_(max=chunk_cdf_NC.shape[1] - 1)
    before_N1 = torch.where(chunks_N1 > 0, chunk_cdf_NC.gather(1, (chunks_N1 - 1).clamp_(min=0)), 0.0)
    cdf_NW = padded_NCW[torch.arange(num_rows), chunks_N1[:, 0]].cumsum(-1, dtype=torch.float64)
    # A hair below the chunk's own sum: rounding must not reach past its last possible token.
    inside_N1 = torch.minimum(targets_N1 - before_N1, cdf_NW[:, -1:] * _LARGEST_UNIFORM)
    tokens_N1 = torch.searchsorted(cdf_NW, inside_N1, right=True).clamp_(max=_CDF_CHUNK - 1)
    return (chunks_N1 * _CDF_CHUNK + tokens_N1)[:, 0].clamp_(max=vocab_size - 1)


def _alternatives(logprobs_NV: Tensor, rows: Sequence[RowSampling]) -> list[list[tuple[int, float]]]:
    most = max(row.top_logprobs for row in rows)
    if most == 0:
        return [[] for _ in rows]
    values_NW, ids_NW = logprobs_NV.topk(min(most, logprobs_NV.shape[1]), dim=-1)
    ranked = [list(zip(*row, strict=True)) for row in zip(ids_NW.tolist(), values_NW.tolist(), strict=True)]
    # Tokens that were taken out have no logprob that JSON could hold.
    return [
        [(token_id, logprob) for token_id, logprob in pairs[: row.top_logprobs] if logprob > -torch.inf]
        for pairs, row in zip(ranked, rows, strict=True)
    ]
