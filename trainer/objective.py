"""What a unit of each action token's logprob is worth: weights_N = −dC/dlogprobs_N.

Built-in losses and weights sent by a client end in the same form, so that everything after is one road.
"""

# N action tokens of a micro-batch

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from trainer.batch import Datum
from trainer.losses import ActionTokens, Loss
from trainer.scores import Scores, refuse_nonfinite
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """weights_N, costs_N: like logprobs_N, detached. clipped_N: bool, None if the objective never clips."""

    weights_N: torch.Tensor
    costs_N: torch.Tensor
    clipped_N: torch.Tensor | None = None


class Objective(Protocol):
    """Weighs the action tokens of a micro-batch. Raises InvalidRequest if a weight or cost is not finite."""

    def __call__(self, scores: Scores) -> Weighted: ...


class BuiltinObjective:
    """A loss of ours, with each trajectory's advantage on each of its action tokens."""

    def __init__(self, loss: Loss, advantages: npt.NDArray[np.float64]) -> None:
        self._loss = loss
        self._advantages = advantages

    def __call__(self, scores: Scores) -> Weighted:
        logprobs_N = scores.logprobs_N.clone().requires_grad_()
        tokens = ActionTokens(
            logprobs_N=logprobs_N,
            sampling_logprobs_N=scores.sampling_logprobs_N,
            advantages_N=scores.per_action([self._advantages[scores.trajectories_N]]),
            sequences_N=scores.sequences_N,
            num_sequences=len(scores.pack.datums),
        )
        costs = self._loss(tokens)
        (slopes_N,) = torch.autograd.grad(costs.costs_N.sum(), logprobs_N)
        refuse_nonfinite(costs.costs_N + slopes_N, scores)
        return Weighted(-slopes_N, costs.costs_N.detach(), costs.clipped_N)


class ClientObjective:
    """Weights from a client, one row a datum over its next-token positions; C is then −Σ w · logprob."""

    def __init__(self, datums: Sequence[Datum], weights: Sequence[Float32Array]) -> None:
        self._weights = {datum: row[datum.action_positions_N - 1] for datum, row in zip(datums, weights, strict=True)}

    def __call__(self, scores: Scores) -> Weighted:
        weights_N = scores.per_action([self._weights[datum] for datum in scores.pack.datums])
        return Weighted(weights_N, -weights_N * scores.logprobs_N)
