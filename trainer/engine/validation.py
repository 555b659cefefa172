"""What the engine refuses before it computes anything. Each refusal is one sentence that names the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainer.engine.batch import Datum
from wire.engine import BaseModelInfo, LoraConfig
from wire.errors import InvalidRequest
from wire.trajectories import Batch, Float32Array, Trajectory
from wire.turns import check_turn


def check_batch(batch: Batch, info: BaseModelInfo, *, sampling_logprobs_optional: bool) -> None:
    """Raises InvalidRequest unless every trajectory can be scored and grouped.

    sampling_logprobs_optional: a turn may then carry no sampling logprobs at all (supervised data).
    """
    _check_groups(batch)
    for index, trajectory in enumerate(batch.trajectories):
        _check_trajectory(f"input {index}", trajectory, info, sampling_logprobs_optional)


def check_lora(lora: LoraConfig) -> None:
    """Raises InvalidRequest unless an adapter of this shape can exist."""
    if lora.rank < 1 or lora.alpha < 1:
        raise InvalidRequest(f"rank {lora.rank} and alpha {lora.alpha}: both must be 1 or more")


def check_num_substeps(num_substeps: int) -> None:
    """Raises InvalidRequest unless it is one or more."""
    if num_substeps < 1:
        raise InvalidRequest(f"num_substeps is {num_substeps}: it must be 1 or more")


def check_weights(datums: Sequence[Datum], weights: Sequence[Float32Array]) -> None:
    """Raises InvalidRequest unless there is one finite weight for each position of each datum.

    Weights of positions that hold no action are ignored, whatever they are.
    """
    if len(weights) != len(datums):
        raise InvalidRequest(f"weights has {len(weights)} rows, but the forward pass returned {len(datums)} datums")
    for index, (datum, row) in enumerate(zip(datums, weights, strict=True)):
        if len(row) != len(datum.ids) - 1:
            raise InvalidRequest(f"weights[{index}] has {len(row)} values, its datum {len(datum.ids) - 1} positions")
        if not np.isfinite(row[datum.action_positions_N - 1]).all():
            raise InvalidRequest(f"weights[{index}] holds a value on a sampled token that is not finite")


def _check_groups(batch: Batch) -> None:
    count, size = len(batch.trajectories), batch.group_size
    if count == 0:
        raise InvalidRequest("the batch has no inputs")
    if size is not None and (size < 1 or count % size):
        raise InvalidRequest(f"group_size is {size}: it must be 1 or more and divide the {count} inputs")
    if not math.isfinite(batch.reward_scale):
        raise InvalidRequest(f"reward_scale is {batch.reward_scale}: it must be finite")


def _check_trajectory(where: str, trajectory: Trajectory, info: BaseModelInfo, logprobs_optional: bool) -> None:
    if not trajectory.turns:
        raise InvalidRequest(f"{where} has no samples: its rollout recorded no sampled tokens")
    if not math.isfinite(trajectory.reward):
        raise InvalidRequest(f"{where} has a reward of {trajectory.reward}: it must be finite")
    for index, turn in enumerate(trajectory.turns):
        check_turn(f"{where}, sample {index}", turn, info, logprobs_optional=logprobs_optional)
