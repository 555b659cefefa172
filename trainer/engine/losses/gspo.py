"""Group sequence policy optimisation: one ratio for a whole sequence, clipped as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.engine.losses.base import ActionTokens, Costs, Loss, check_clip_range
from trainer.engine.losses.surrogate import clipped_surrogate


@dataclass(frozen=True, slots=True)
class GSPO(Loss):
    """C = −Σ min(s_t A_t, clip(s_t, low, high) A_t) over action tokens (GSPO-token, arXiv:2507.18071).

    s = exp(mean of π − q over the sequence's action tokens) and s_t = sg(s) π_t/sg(π_t) in probabilities: equal to s
    in value, with a gradient to token t alone. So −dC/dπ_t = s A_t, and 0 where the sequence is clipped. A sequence's
    tokens share one advantage, hence cost and slope are those of n · min(s A, clip(s) A) with nothing detached, n
    being its number of action tokens. The paper counts each sequence once, whatever its length, and divides advantages
    by their deviation: that is this with `normalize_by_sequences` and `advantage_std`.

    A sequence is a datum: all turns of a trajectory that extend one another. A datum may say which of its tokens the
    mean is taken over; where there is none of them, s is 1. The defaults are the paper's, 1 − 3e-4
    and 1 + 4e-4: a mean over many tokens strays far less from 1 than a token's ratio does. They expect sampling
    logprobs that agree with the trainer's to about 1e-4 on average; `clip_fraction:mean` says whether they do.
    """

    clip_low_threshold: float = 0.9997
    clip_high_threshold: float = 1.0004

    def __post_init__(self) -> None:
        check_clip_range(self.clip_low_threshold, self.clip_high_threshold)

    def __call__(self, tokens: ActionTokens) -> Costs:
        means_N = _sequence_means((tokens.logprobs_N - tokens.sampling_logprobs_N).detach(), tokens)
        log_ratios_N = means_N + (tokens.logprobs_N - tokens.logprobs_N.detach())
        weighing_N = torch.where(tokens.advantages_N == 0, 0.0, log_ratios_N)
        return clipped_surrogate(weighing_N, tokens.advantages_N, self.clip_low_threshold, self.clip_high_threshold)


def _sequence_means(values_N: torch.Tensor, tokens: ActionTokens) -> torch.Tensor:
    """On each token, the mean over those of its sequence that count."""
    # Not index_add: on CUDA that one adds in any order, and a replay must give the same bits.
    lengths_S = torch.bincount(tokens.sequences_N, minlength=tokens.num_sequences)
    if tokens.in_ratio_N is None:
        return torch.segment_reduce(values_N, "mean", lengths=lengths_S)[tokens.sequences_N]
    counted_N = torch.where(tokens.in_ratio_N, values_N, 0.0)
    sums_S = torch.segment_reduce(counted_N, "sum", lengths=lengths_S)
    counts_S = torch.segment_reduce(tokens.in_ratio_N.to(values_N.dtype), "sum", lengths=lengths_S)
    return (sums_S / counts_S.clamp(min=1))[tokens.sequences_N]
