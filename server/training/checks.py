"""What is refused before anything is written down. Each refusal is one sentence that names the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np

from server.checkpoint_names.lifetimes import check_ttl
from server.checkpoint_names.paths import check_name
from server.values.sanitizing import is_storable
from wire.engine import BaseModelInfo, LossChoice
from wire.errors import InvalidRequest
from wire.saves import SaveRequest
from wire.trajectories import Batch, Float32Array
from wire.turns import check_turn

Losses = Mapping[str, Mapping[str, float | None]]

_MAX_METRICS = 100
_MAX_METRIC_NAME = 100


def check_batch(batch: Batch, recorded: Mapping[int, UUID], info: BaseModelInfo, *, logprobs_optional: bool) -> None:
    """Raises InvalidRequest unless every token of the batch can be trained on.

    recorded: the trace ids of those of its trajectories that were named and not sent. logprobs_optional: samples may
    come without logprobs (they were not sampled, or the loss does not ask).
    """
    _check_groups(len(batch.trajectories), batch.group_size)
    _check_finite("reward_scale", batch.reward_scale)
    for index, trajectory in enumerate(batch.trajectories):
        where = f"input {index} (trace {recorded[index].hex})" if index in recorded else f"input {index}"
        _check_finite(f"{where}: reward", trajectory.reward)
        for number, turn in enumerate(trajectory.turns):
            check_turn(f"{where}, sample {number}", turn, info, logprobs_optional=logprobs_optional)


def check_loss(loss: LossChoice, num_inputs: int, losses: Losses) -> None:
    """Raises InvalidRequest for an unknown loss or key, naming the known ones."""
    if loss.name not in losses:
        raise InvalidRequest(f"unknown loss_fn {loss.name!r}; this server knows {_list(losses)}")
    known = losses[loss.name]
    for key, value in loss.config.items():
        if key not in known:
            raise InvalidRequest(
                f"loss_fn_config: {loss.name} has no key {key!r}; it knows {_list(known) if known else 'none'}"
            )
        _check_finite(f"loss_fn_config.{key}", value)
    if loss.num_substeps > num_inputs:
        raise InvalidRequest(f"num_substeps is {loss.num_substeps}, but there are {num_inputs} inputs")


def check_weights(weights: Sequence[Float32Array], lengths: Sequence[int]) -> None:
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


def check_save(request: SaveRequest) -> None:
    """Raises InvalidRequest for a name, a time to live or metadata that cannot be kept."""
    if request.use.is_named != (request.name is not None):
        raise InvalidRequest(f"a save for {request.use.value} {'needs a' if request.use.is_named else 'takes no'} name")
    if request.name is not None:
        check_name(request.name)
    if request.ttl_seconds is not None:
        check_ttl(request.ttl_seconds)
    for key, value in (request.user_metadata or {}).items():
        if not is_storable(key) or not is_storable(value):
            raise InvalidRequest(f"user_metadata: {key!r} holds a character that cannot be stored")


def _check_groups(num_inputs: int, group_size: int | None) -> None:
    if group_size is not None and num_inputs % group_size:
        raise InvalidRequest(
            f"{num_inputs} inputs do not make whole groups of {group_size}; "
            "send every rollout of a group, or another group_size"
        )


def _check_finite(name: str, value: float) -> None:
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise InvalidRequest(f"{name} is {value}: it must be a finite float32 number")


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
