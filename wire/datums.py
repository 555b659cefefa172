"""Datums: what is trained on, whatever protocol it came in. The log's payloads hold them and the engine takes them.

Arrays, not lists: a batch holds tens of millions of tokens. What is the same for all tokens (a weight of 1, one
advantage) is one number with a stride of 0 (`repeated`).
"""

# N tokens of the model input, P scored positions, S spans

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from wire.extension import Int32Array, TokenSequence
from wire.trajectories import Float32Array, Float64Array, Turn

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a datum came from: for metrics, replies and refusals. Its loss depends on none of it.

    trajectory_index: of the call's inputs; datums of one trajectory are neighbours. group_index: trajectories of one
    group are neighbours, too; passes keep them together, since they share their prompt. reward: of the whole
    trajectory, None where there is none.
    """

    trajectory_index: int
    group_index: int = 0
    reward: float | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """One sequence and what is scored of it. All arrays but `model_input` are aligned with the P scored positions.

    spans: int32 (S, 2), first and one past the last of each run of scored positions of model_input, ascending, none
    empty; of a trajectory, one a turn. All other positions are context. is_sampled: bool (S,), whether a span came with
    sampling logprobs.

    targets: int32 (P,), the token that each position predicts: the next one of a trajectory, but any token may be. Or
    (P, K), for K targets a position, which cross_entropy alone scores.

    weights: float32 of the shape of targets, what the cost of each is multiplied by; any sign. A position of weight 0
    is scored, and counts in no figure. advantages: float64 (P,). sampling_logprobs: float32 nats (P,), 0 in spans that
    came without any.

    in_ratio: bool (P,), which positions a ratio of the whole sequence (gspo) is taken over; None for all.
    """

    model_input: TokenSequence
    spans: Int32Array
    is_sampled: npt.NDArray[np.bool_]
    targets: Int32Array
    weights: Float32Array
    advantages: Float64Array
    sampling_logprobs: Float32Array
    origin: Origin
    in_ratio: npt.NDArray[np.bool_] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the model input."""
        return len(self.model_input)

    @property
    def num_scored(self) -> int:
        """P."""
        return len(self.targets)

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens of all turns as sent, repeats included."""
        return int(self.spans[:, 0].sum(dtype=np.int64)) + len(self.spans)

    @property
    def positions(self) -> Int64Array:
        """Which tokens of the model input predict a target, ascending."""
        return positions_of(self.spans)

    @property
    def has_weight(self) -> npt.NDArray[np.bool_]:
        """bool (P,), which positions count: those of which a target has a weight."""
        if not any(self.weights.strides):
            return repeated(np.array([self.weights.flat[0] != 0]), self.num_scored)
        return self.weights != 0 if self.weights.ndim == 1 else (self.weights != 0).any(axis=1)

    def per_target(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values of the scored positions (P,), or of their targets, one a target, position by position."""
        if values.ndim == self.targets.ndim:
            return values.ravel() if values.ndim > 1 else values
        return np.repeat(values, self.targets.shape[1])

    def aligned(self, values: npt.NDArray[np.generic]) -> Float32Array:
        """Values of the scored positions, (P,) or (P, K), on all N positions, 0 elsewhere."""
        on_all = np.zeros((self.num_tokens, *values.shape[1:]), np.float32)
        on_all[self.positions] = values
        return on_all

    def turns(self) -> Iterator[Turn]:
        """The turns that this datum was merged from; for datums of trajectories only."""
        ids = np.append(self.model_input.ids, self.targets[-1:])
        ends = np.cumsum(self.spans[:, 1] - self.spans[:, 0])
        for (start, stop), end, is_sampled in zip(self.spans.tolist(), ends.tolist(), self.is_sampled, strict=True):
            first = end - (stop - start) if is_sampled else end
            logprobs = self.sampling_logprobs[first:end]
            media = tuple(item for item in self.model_input.media if item.stop <= start + 1)
            yield Turn(ids[: start + 1], ids[start + 1 : stop + 1], logprobs, media)


def fully_scored(
    model_input: TokenSequence,
    targets: Int32Array,
    index: int,
    *,
    weights: Float32Array | None = None,
    sampling: tuple[Float32Array, Float64Array] | None = None,
    in_ratio: npt.NDArray[np.bool_] | None = None,
) -> Datum:
    """A datum that is all of one sequence, number `index` of its call: each position is scored, prompt or not.

    sampling: sampling logprobs and advantages, for losses that want them. A position whose two are both 0 stands for
    a token that nobody sampled, and gets the weight 0: dro would otherwise pull it towards a logprob of 0. Without
    `sampling`, weights None are ones.
    """
    length = len(targets)
    logprobs, advantages = sampling or (np.zeros(length, np.float32), np.zeros(length))
    if weights is None:
        weights = np.ones(targets.shape, np.float32)
    if sampling is not None:
        weights = np.where((logprobs == 0) & (advantages == 0), np.float32(0), weights)
    return Datum(
        model_input=model_input,
        spans=np.array([[0, len(model_input)]], np.int32),
        is_sampled=np.array([sampling is not None]),
        targets=targets,
        weights=weights,
        advantages=advantages.astype(np.float64, copy=False),
        sampling_logprobs=logprobs,
        origin=Origin(index),
        in_ratio=in_ratio,
    )


def repeated(value: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """An array of one value as one of many, in the room of one."""
    # np.broadcast_to takes 20 µs.
    return np.ndarray(length, value.dtype, value, strides=(0,))


def positions_of(spans: Int32Array) -> Int64Array:
    """The positions inside of spans (S, 2)."""
    lengths = (spans[:, 1] - spans[:, 0]).astype(np.int64)
    skipped = spans[:, 0] - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + np.repeat(skipped, lengths)


def by_trajectory(datums: Sequence[Datum]) -> Iterator[list[Datum]]:
    """The datums of each trajectory, in order."""
    return (list(of_one) for _, of_one in groupby(datums, key=attrgetter("origin.trajectory_index")))


def num_trajectories(datums: Sequence[Datum]) -> int:
    """How many trajectories the datums are of."""
    return sum(1 for _ in by_trajectory(datums))
