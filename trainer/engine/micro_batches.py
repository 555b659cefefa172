"""One micro-batch through the model and back, by all ranks at once.

Whatever makes a rank refuse, a number that is not finite, a stop, no memory, makes all of them refuse at the same
point: after each part of a turn they agree that it came to its end.
"""

# N targets of a micro-batch

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from trainer.engine.base_model import BaseModel
from trainer.engine.finite import squares_finite
from trainer.engine.metrics import MicroBatchFigures
from trainer.engine.objective import Objective, Weighted
from trainer.engine.packing import Pack
from trainer.engine.ranks import Ranks, Signal
from trainer.engine.scores import Scores, refuse_broken_policy, trajectory_indices
from trainer.engine.timing import PhaseTimer
from trainer.engine.turns import Turn
from wire.errors import InvalidRequest
from wire.process.faults import fault_point


class MicroBatches:
    """Takes the turns of a pass under the session that is bound.

    A turn without a micro-batch computes nothing, and takes part in the gathers and agreements of the others.
    """

    def __init__(self, base: BaseModel, ranks: Ranks, before: Callable[[], None], max_activation_bytes: int) -> None:
        """`before` is called at the start of each turn, and may raise. max_activation_bytes: beyond it, layers are
        recomputed in the backward."""
        self._base = base
        self._ranks = ranks
        self._before = before
        self._max_activation_bytes = max_activation_bytes

    def score(self, turn: Turn | None) -> Scores | None:
        """Logprobs, with a graph where gradients are enabled. Raises NonFinite for weights that have diverged."""
        with self._ranks.agreed():
            self._before()
            pack = None if turn is None else self._base.pack(turn.datums)
        fault_point("forward:before-pass")
        with self._ranks.agreed():
            scores = self._forward(pack)
            fault_point("forward:before-vote")
        fault_point("forward:after-vote")
        return scores

    def weigh(self, objective: Objective, scores: Scores | None) -> Weighted | None:
        """What each target is worth."""
        base_logprobs_P = None
        if objective.needs_base:
            with self._ranks.agreed():
                if scores is None:
                    self._base.gathers.idle_forward()
                else:
                    base_logprobs_P = self._base.base_logprobs(scores.pack)
        with self._ranks.agreed():
            return None if scores is None else objective(scores, base_logprobs_P)

    def learn(
        self, turn: Turn | None, objective: Objective, scratch: torch.Tensor, phases: PhaseTimer
    ) -> MicroBatchFigures | None:
        """Add the micro-batch's gradient to the scratch; one that has none is scored without a graph. Raises
        InvalidRequest, naming a datum, where the sum is not finite."""
        with phases("forward"), torch.set_grad_enabled(turn is None or objective.moves(turn.datums)):
            scores = self.score(turn)
        with phases("loss"):
            weighted = self.weigh(objective, scores)
        try:
            with phases("backward"), self._ranks.agreed():
                fault_point("backward:before-pass")
                self._backpropagate(scores, weighted)
                if turn and not squares_finite(scratch):
                    raise _Overflow
                fault_point("backward:before-vote")
        except _Overflow:
            self._refuse_overflow(turn, objective, scratch)
        fault_point("backward:after-vote")
        return MicroBatchFigures.of(scores, weighted) if scores and weighted else None

    def _forward(self, pack: Pack | None) -> Scores | None:
        if pack is None:
            self._base.gathers.idle_forward()
            return None
        recompute = torch.is_grad_enabled() and self._base.activation_bytes(pack) > self._max_activation_bytes
        scores = Scores.of(pack, *self._base.logprobs(pack, recompute=recompute))
        refuse_broken_policy(scores)
        return scores

    def _backpropagate(self, scores: Scores | None, weighted: Weighted | None) -> None:
        if scores is None or weighted is None or not weighted.weights_N.any():
            self._base.gathers.idle_backward()
            return
        with self._base.gathers.backward():
            scores.backpropagate(weighted.weights_N)

    def _refuse_overflow(self, turn: Turn | None, objective: Objective, scratch: torch.Tensor) -> None:
        """Raises what names the heaviest datum whose gradient overflows alone. Computes each again: the call is lost
        anyway. All ranks take part, whoever has the overflow."""
        mine = _one_by_one(turn) if turn and not squares_finite(scratch) else []
        num_turns = max(self._ranks.gathered(len(mine)))
        heaviest: dict[int, float] = {}
        for alone in [*mine, *[None] * (num_turns - len(mine))]:
            scratch.zero_()
            scores = self.score(alone)
            weighted = self.weigh(objective, scores)
            with self._ranks.agreed():
                self._backpropagate(scores, weighted)
            if alone and weighted and not squares_finite(scratch):
                heaviest[alone.indices[0]] = weighted.weights_N.abs().max().item()
        with self._ranks.agreed():
            if turn and mine:
                raise _overflow(turn, heaviest)


class _Overflow(Signal):
    """Of the squares of a gradient."""


def _one_by_one(turn: Turn) -> list[Turn]:
    pairs = zip(turn.indices, turn.datums, strict=True)
    return [replace(turn, indices=[index], datums=[datum]) for index, datum in pairs]


def _overflow(turn: Turn, heaviest: dict[int, float]) -> InvalidRequest:
    """heaviest: the largest weight of each datum, by its index, whose gradient overflows alone."""
    if heaviest:
        # One absurd reward drags the advantages of its whole group along; it is the farthest from the mean itself.
        index = max(heaviest, key=lambda index: heaviest[index])
        datum = turn.datums[turn.indices.index(index)]
        return InvalidRequest(
            f"input {datum.origin.trajectory_index} (datum {index}): its gradient is not finite, for its reward, "
            "weights or output_logprobs are too far off"
        )
    indices = trajectory_indices(turn.datums)
    return InvalidRequest(
        f"inputs {indices.min()} to {indices.max()}: the gradient of each is finite, but their sum, with what came "
        "before them in this batch, is not; scale their rewards or weights down"
    )
