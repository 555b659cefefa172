"""Imitation of the sampled tokens, whatever their reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.engine.losses.base import ActionTokens, Costs, Loss


@dataclass(frozen=True, slots=True)
class CrossEntropy(Loss):
    """C = −Σ π_t over action tokens. Rewards, advantages and sampling logprobs are ignored.

    Datums that bring weights, of any sign, have C = −Σ w_t π_t, and with K targets a position −Σ_t Σ_k w_tk π_tk.
    """

    sampling_logprobs_optional: ClassVar[bool] = True
    scores_several: ClassVar[bool] = True
    follows_advantages: ClassVar[bool] = False

    def __call__(self, tokens: ActionTokens) -> Costs:
        return Costs(-tokens.logprobs_N)
