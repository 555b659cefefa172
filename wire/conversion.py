"""Trajectories to datums: what HUD's training calls become when they are logged, and their old payloads when read.

A multi-turn trajectory repeats its history in every prompt. While each prompt extends the last prompt + output, the
turns are one datum; a history that was edited or truncated begins a new one. What the environment wrote between two
outputs is context, never scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wire.advantages import OVER_STD, advantages
from wire.datums import Datum, Origin, repeated
from wire.errors import InvalidRequest
from wire.extension import joined
from wire.trajectories import Batch, Float32Array, Float64Array, Trajectory, Turn

_ONE = np.ones(1, np.float32)


def to_datums(batch: Batch, loss_fn_config: Mapping[str, Any] | None = None) -> list[Datum]:
    """Datums in the order of their trajectories; each sampled token of each turn is scored exactly once, with a weight
    of 1 and the advantage of its trajectory.

    loss_fn_config: may ask for advantages over the group's standard deviation. Turns have to be those that `check_turn`
    lets pass. Raises InvalidRequest for trajectories that cannot be grouped.
    """
    _check_groups(batch)
    size = batch.group_size or len(batch.trajectories)
    found = advantages(batch, over_std=bool((loss_fn_config or {}).get(OVER_STD)))
    return [
        _merged(turns, found[index : index + 1], Origin(index, index // size, trajectory.reward, trajectory.trace_id))
        for index, trajectory in enumerate(batch.trajectories)
        for turns in _chains(trajectory.turns)
    ]


def _chains(turns: Sequence[Turn]) -> list[list[Turn]]:
    chains: list[list[Turn]] = []
    for turn in turns:
        if chains and turn.continues(chains[-1][-1]):
            chains[-1].append(turn)
        else:
            chains.append([turn])
    return chains


def _merged(turns: Sequence[Turn], advantage: Float64Array, origin: Origin) -> Datum:
    starts = [len(turn.prompt_ids) - 1 for turn in turns]
    stops = [start + len(turn.output_ids) for start, turn in zip(starts, turns, strict=True)]
    num_scored = sum(stops) - sum(starts)
    last = turns[-1]
    return Datum(
        # The last token predicts nothing, so it is never fed to the model.
        model_input=joined(last.prompt, last.output.part(0, len(last.output_ids) - 1)),
        spans=np.array([*zip(starts, stops, strict=True)], np.int32),
        is_sampled=np.array([len(turn.sampling_logprobs) > 0 for turn in turns]),
        targets=np.concatenate([turn.output_ids for turn in turns]).astype(np.int32, copy=False),
        weights=repeated(_ONE, num_scored),
        advantages=repeated(advantage, num_scored),
        sampling_logprobs=np.concatenate([_sampling_logprobs(turn) for turn in turns]),
        origin=origin,
    )


def _sampling_logprobs(turn: Turn) -> Float32Array:
    if len(turn.sampling_logprobs) == 0:
        return np.zeros(len(turn.output_ids), np.float32)
    return turn.sampling_logprobs.astype(np.float32, copy=False)


def _check_groups(batch: Batch) -> None:
    count, size = len(batch.trajectories), batch.group_size
    if count == 0:
        raise InvalidRequest("the batch has no inputs")
    if size is not None and (size < 1 or count % size):
        raise InvalidRequest(f"group_size is {size}: it must be 1 or more and divide the {count} inputs")
    if not math.isfinite(batch.reward_scale):
        raise InvalidRequest(f"reward_scale is {batch.reward_scale}: it must be finite")
    for index, trajectory in enumerate(batch.trajectories):
        _check_trajectory(f"input {index}", trajectory)


def _check_trajectory(where: str, trajectory: Trajectory) -> None:
    if not trajectory.turns:
        raise InvalidRequest(f"{where} has no samples: its rollout recorded no sampled tokens")
    if not math.isfinite(trajectory.reward):
        raise InvalidRequest(f"{where} has a reward of {trajectory.reward}: it must be finite")
