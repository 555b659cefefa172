"""Trajectories to datums: the token sequences that the policy is scored on.

A multi-turn trajectory repeats its history in every prompt. While each prompt extends the last prompt + output, the
turns are one sequence; a history that was edited or truncated begins a new datum. What the environment wrote between
two outputs is context, never an action.
"""

# N action tokens of a datum

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wire.engine import DatumTensors
from wire.trajectories import Float32Array, Int32Array, Trajectory, Turn

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Datum:
    """One sequence and which of its tokens were sampled.

    ids: int32, two or more. action_positions_N: ascending indices into ids, never 0 (nothing predicts the first
    token). sampling_logprobs_N: nats, aligned with action_positions_N; zeros where the batch carries none.
    """

    trajectory_index: int
    ids: Int32Array
    action_positions_N: Int64Array
    sampling_logprobs_N: Float32Array

    @property
    def num_computed_tokens(self) -> int:
        """The last token predicts nothing, so it is never fed to the model."""
        return len(self.ids) - 1

    @property
    def num_actions(self) -> int:
        """Sampled tokens."""
        return len(self.action_positions_N)


def to_datums(trajectories: Sequence[Trajectory]) -> list[Datum]:
    """Datums in the order of their trajectories; each sampled token of each turn is an action exactly once."""
    return [
        _merge(index, turns) for index, trajectory in enumerate(trajectories) for turns in _chains(trajectory.turns)
    ]


def align(datum: Datum, values_N: npt.NDArray[np.generic]) -> Float32Array:
    """Values of the actions on next-token positions: entry t belongs to token t + 1, zero where that is no action."""
    aligned = np.zeros(len(datum.ids) - 1, np.float32)
    aligned[datum.action_positions_N - 1] = values_N
    return aligned


def datum_tensors(datum: Datum, reward: float, logprobs_N: npt.NDArray[np.generic]) -> DatumTensors:
    """What a client sees of a datum that was scored."""
    return DatumTensors(
        trajectory_index=datum.trajectory_index,
        reward=reward,
        logprobs=align(datum, logprobs_N),
        sampling_logprobs=align(datum, datum.sampling_logprobs_N),
        mask=align(datum, np.ones(datum.num_actions, np.float32)),
    )


def by_trajectory(rows: Mapping[Datum, Float32Array], num_trajectories: int) -> list[Float32Array]:
    """Values of each trajectory's output tokens, turn by turn. rows: of each datum's actions, datums in order."""
    found: list[list[Float32Array]] = [[] for _ in range(num_trajectories)]
    for datum, row_N in rows.items():
        found[datum.trajectory_index].append(row_N)
    return [np.concatenate(of_one) for of_one in found]


def _chains(turns: Sequence[Turn]) -> list[list[Turn]]:
    chains: list[list[Turn]] = []
    for turn in turns:
        if chains and _extends(chains[-1][-1], turn.prompt_ids):
            chains[-1].append(turn)
        else:
            chains.append([turn])
    return chains


def _extends(last: Turn, prompt_ids: Int32Array) -> bool:
    start, end = len(last.prompt_ids), len(last.prompt_ids) + len(last.output_ids)
    return (
        len(prompt_ids) >= end
        and np.array_equal(prompt_ids[:start], last.prompt_ids)
        and np.array_equal(prompt_ids[start:end], last.output_ids)
    )


def _merge(trajectory_index: int, turns: list[Turn]) -> Datum:
    spans = [np.arange(len(turn.output_ids), dtype=np.int64) + len(turn.prompt_ids) for turn in turns]
    return Datum(
        trajectory_index=trajectory_index,
        ids=np.concatenate([turns[-1].prompt_ids, turns[-1].output_ids]).astype(np.int32, copy=False),
        action_positions_N=np.concatenate(spans),
        sampling_logprobs_N=np.concatenate([_sampling_logprobs(turn) for turn in turns]),
    )


def _sampling_logprobs(turn: Turn) -> Float32Array:
    if len(turn.sampling_logprobs) == 0:
        return np.zeros(len(turn.output_ids), np.float32)
    return turn.sampling_logprobs.astype(np.float32, copy=False)
