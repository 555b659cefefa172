"""What is refused before anything is written down. Each refusal is one sentence that names the input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from server.protocols.hud.training.schemas import (
    ForwardBackwardRequest,
    ForwardRequest,
    ResolvedInput,
    SampleInput,
    TrajectoryInput,
)
from server.sanitizing import is_storable
from wire.engine import BaseModelInfo
from wire.errors import InvalidRequest
from wire.trajectories import Batch, Trajectory, Turn
from wire.turns import check_turn

Losses = Mapping[str, Mapping[str, float | None]]

_MAX_METRICS = 100
_MAX_METRIC_NAME = 100


def checked_batch(request: ForwardRequest, info: BaseModelInfo, *, logprobs_optional: bool) -> Batch:
    """The batch that the request describes. Raises InvalidRequest unless every token of it can be trained on.

    logprobs_optional: samples may come without logprobs (they were not sampled, or the loss does not ask).
    """
    _check_groups(len(request.inputs), request.group_size)
    _check_finite("reward_scale", request.reward_scale)
    trajectories = [
        _checked_trajectory(index, item, info, logprobs_optional) for index, item in enumerate(request.inputs)
    ]
    return Batch(trajectories, request.group_size, request.reward_scale)


def check_loss(request: ForwardBackwardRequest, losses: Losses) -> None:
    """Raises InvalidRequest for an unknown loss or key, naming the known ones."""
    if request.loss_fn not in losses:
        raise InvalidRequest(f"unknown loss_fn {request.loss_fn!r}; this server knows {_list(losses)}")
    known = losses[request.loss_fn]
    for key, value in (request.loss_fn_config or {}).items():
        if key not in known:
            raise InvalidRequest(
                f"loss_fn_config: {request.loss_fn} has no key {key!r}; it knows {_list(known) if known else 'none'}"
            )
        _check_finite(f"loss_fn_config.{key}", value)
    if request.num_substeps > len(request.inputs):
        raise InvalidRequest(f"num_substeps is {request.num_substeps}, but there are {len(request.inputs)} inputs")


def check_weights(weights: list[npt.NDArray[np.float32]], lengths: list[int]) -> None:
    """Raises InvalidRequest unless the weights are finite and aligned with the datums of a forward."""
    if len(weights) != len(lengths):
        raise InvalidRequest(f"weights has {len(weights)} rows, but the forward pass returned {len(lengths)} datums")
    for index, (row, length) in enumerate(zip(weights, lengths, strict=True)):
        if len(row) != length:
            raise InvalidRequest(f"weights[{index}] has {len(row)} values, but its datum has {length} positions")
        if not np.isfinite(row).all():
            raise InvalidRequest(f"weights[{index}] holds a value that is not a finite float32 number")


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Raises InvalidRequest unless the caller's metrics are few, finite, and under names that can be stored."""
    if len(metrics) > _MAX_METRICS:
        raise InvalidRequest(f"metrics has {len(metrics)} entries; it may have {_MAX_METRICS}")
    for key, value in metrics.items():
        if len(key) > _MAX_METRIC_NAME:
            raise InvalidRequest(
                f"metrics: the name {key[:32] + '…'!r} has {len(key)} characters; it may have {_MAX_METRIC_NAME}"
            )
        if not is_storable(key):
            raise InvalidRequest(f"metrics: the name {key!r} holds a character that cannot be stored")
        _check_finite(f"metrics.{key}", value)


def _check_groups(num_inputs: int, group_size: int | None) -> None:
    if group_size is not None and num_inputs % group_size:
        raise InvalidRequest(
            f"{num_inputs} inputs do not make whole groups of {group_size}; "
            "send every rollout of a group, or another group_size"
        )


def _checked_trajectory(
    index: int, item: str | TrajectoryInput, info: BaseModelInfo, logprobs_optional: bool
) -> Trajectory:
    assert isinstance(item, TrajectoryInput), "trace ids are resolved before"
    where = f"input {index} (trace {item.trace_id})" if isinstance(item, ResolvedInput) else f"input {index}"
    _check_finite(f"{where}: reward", item.reward)
    turns = [
        _checked_turn(f"{where}, sample {number}", sample, info, logprobs_optional)
        for number, sample in enumerate(item.samples)
    ]
    return Trajectory(tuple(turns), item.reward, item.trace_id)


def _checked_turn(where: str, sample: SampleInput, info: BaseModelInfo, logprobs_optional: bool) -> Turn:
    if sample.prompt_chunks is not None:
        raise InvalidRequest(f"{where} has prompt_chunks: image prompts are not supported yet")
    prompt_ids = sample.prompt_token_ids if sample.prompt_token_ids is not None else np.zeros(0, np.int32)
    turn = Turn(prompt_ids, sample.output_token_ids, sample.output_logprobs)
    check_turn(where, turn, info, logprobs_optional=logprobs_optional)
    return turn


def _check_finite(name: str, value: float) -> None:
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise InvalidRequest(f"{name} is {value}: it must be a finite float32 number")


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
