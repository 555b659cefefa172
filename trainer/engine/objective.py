"""What a unit of each target's logprob is worth: weights_N = −dC/dlogprobs_N.

Built-in losses and weights sent by a client end in the same form, so that everything after is the same code.
"""

# N targets of a micro-batch

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from trainer.engine.losses import ActionTokens, Loss, LossOptions
from trainer.engine.scores import Scores, refuse_nonfinite
from wire.datums import Datum
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """weights_N, costs_N: like logprobs_N, detached. clipped_N: bool, None if the objective never clips.

    kl_base_N: k3 of each token towards the base model, None if nobody asked.
    """

    weights_N: torch.Tensor
    costs_N: torch.Tensor
    clipped_N: torch.Tensor | None = None
    kl_base_N: torch.Tensor | None = None


class Objective(Protocol):
    """Weighs the targets of a micro-batch. Raises InvalidRequest if what it computes is not finite.

    needs_base: whether it asks for base_logprobs_P, those of the pack's predictions under the base model, detached.
    """

    def moves(self, datums: Sequence[Datum]) -> bool:
        """Whether these may have a gradient; if not, all of their weights_N will be exactly 0, whatever their logprobs
        are."""
        ...

    @property
    def needs_base(self) -> bool: ...

    def __call__(self, scores: Scores, base_logprobs_P: torch.Tensor | None) -> Weighted: ...


class BuiltinObjective:
    """A loss of ours, with what any loss may ask for. Each target's cost is multiplied by the datum's weight of it.

    datums: all of the call, micro-batches will bring some at a time. The base is asked only if there is a penalty.
    """

    def __init__(self, loss: Loss, options: LossOptions, datums: Sequence[Datum]) -> None:
        self._loss = loss
        self._kl_penalty_coef = options.kl_penalty_coef
        self._by_advantage = loss.follows_advantages and not options.kl_penalty_coef
        self.needs_base = bool(options.kl_penalty_coef)
        scales_S = options.cost_scales(np.array([datum.num_scored for datum in datums]))
        self._scales = dict(zip(datums, scales_S, strict=True))

    def moves(self, datums: Sequence[Datum]) -> bool:
        """Not without a weight; nor, by a loss that follows them, without an advantage."""
        return any(each.weights.any() and (each.advantages.any() or not self._by_advantage) for each in datums)

    def __call__(self, scores: Scores, base_logprobs_P: torch.Tensor | None) -> Weighted:
        logprobs_N = scores.logprobs_N.clone().requires_grad_()
        tokens = ActionTokens(
            logprobs_N=logprobs_N,
            sampling_logprobs_N=scores.sampling_logprobs_N,
            advantages_N=scores.per_action([datum.per_target(datum.advantages) for datum in scores.pack.datums]),
            sequences_N=scores.sequences_N,
            num_sequences=len(scores.pack.datums),
            in_ratio_N=_in_ratio(scores),
        )
        costs = self._loss(tokens)
        kl_base_N = None if base_logprobs_P is None else _kl_base(scores, logprobs_N, base_logprobs_P)
        penalised_N = costs.costs_N if kl_base_N is None else costs.costs_N + self._kl_penalty_coef * kl_base_N
        costs_N = penalised_N * self._scales_of(scores)
        (slopes_N,) = torch.autograd.grad(costs_N.sum(), logprobs_N)
        refuse_nonfinite(costs_N + slopes_N, scores)
        return Weighted(-slopes_N, costs_N.detach(), costs.clipped_N, None if kl_base_N is None else kl_base_N.detach())

    def _scales_of(self, scores: Scores) -> torch.Tensor:
        return scores.per_action(
            [
                np.multiply(datum.per_target(datum.weights), self._scales[datum], dtype=np.float64)
                for datum in scores.pack.datums
            ]
        )


def _kl_base(scores: Scores, logprobs_N: torch.Tensor, base_logprobs_P: torch.Tensor) -> torch.Tensor:
    """k3 of each token: exp(b − π) − (b − π) − 1, b under the base model."""
    gaps_N = base_logprobs_P[scores.pack.inverse_N] - logprobs_N
    kl_base_N = torch.expm1(gaps_N) - gaps_N
    refuse_nonfinite(kl_base_N, scores, "the policy is too far from the base model for a KL penalty")
    return kl_base_N


def _in_ratio(scores: Scores) -> torch.Tensor | None:
    datums = scores.pack.datums
    if all(datum.in_ratio is None for datum in datums):
        return None
    rows = [np.ones(datum.num_scored, np.bool_) if datum.in_ratio is None else datum.in_ratio for datum in datums]
    each = [datum.per_target(row) for datum, row in zip(datums, rows, strict=True)]
    return torch.from_numpy(np.concatenate(each)).to(scores.logprobs_N.device)


class ClientObjective:
    """Weights from a client, one row a datum over all positions of its model input; C is then −Σ w · logprob."""

    needs_base = False

    def __init__(self, datums: Sequence[Datum], weights: Sequence[Float32Array]) -> None:
        self._weights = {datum: row[datum.positions] for datum, row in zip(datums, weights, strict=True)}

    def moves(self, datums: Sequence[Datum]) -> bool:
        """Not where the client weighs nothing."""
        return any(self._weights[datum].any() for datum in datums)

    def __call__(self, scores: Scores, base_logprobs_P: torch.Tensor | None) -> Weighted:
        weights_N = scores.per_action([self._weights[datum] for datum in scores.pack.datums])
        return Weighted(weights_N, -weights_N * scores.logprobs_N)
