"""Results of operations as the SDK reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from server.checkpoint_names.paths import Kind, TinkerPath
from server.protocols.tinker.training.passes import json_forms, protobuf
from server.training.loading import LOAD
from server.training.promises import Promise
from store.operation_kinds import SAVE, UNPROMOTED_STEP
from wire.payload import Arrays
from wire.saves import Use

_JSON = "application/json"
_TYPES = {
    Use.TRAINING: "save_weights",
    Use.EXTERNAL: "save_weights_external",
    Use.SAMPLER: "save_weights_for_sampler",
    Use.SNAPSHOT: "save_weights_for_sampler",
    Use.INFLIGHT: "save_weights_for_sampler",
}
_NAMED: dict[Use, Kind] = {Use.TRAINING: "training", Use.EXTERNAL: "external", Use.SAMPLER: "sampler"}


class Reads(StrEnum):
    """What a client reads. SDKs before 0.25 read protobuf where all datums have rows of one length, and any JSON."""

    JSON = "json"
    UNIFORM_PROTOBUF = "uniform_protobuf"
    PROTOBUF = "protobuf"


def result_body(promise: Promise, header: Mapping[str, Any], arrays: Arrays, reads: Reads) -> tuple[bytes, str]:
    """The body of a result, and its media type."""
    if promise.kind == SAVE.name:
        return to_json(_saved(promise.run_id, header)), _JSON
    if promise.kind == LOAD:
        return to_json({"type": "load_weights", "model_id": promise.run_id, "path": header["path"]}), _JSON
    if promise.kind == UNPROMOTED_STEP.name:
        metrics = {name: value for name, value in header.get("metrics", {}).items() if math.isfinite(value)}
        return to_json({"metrics": metrics}), _JSON
    logprobs, metrics = _per_datum(header, arrays), _reduced(header["metrics"])
    is_uniform = len({array.shape[1:] for array in logprobs}) == 1
    if reads is Reads.PROTOBUF or (reads is Reads.UNIFORM_PROTOBUF and is_uniform):
        return protobuf.encode_output(logprobs, metrics), protobuf.MEDIA_TYPE
    return json_forms.encode_output(logprobs, metrics), _JSON


def _saved(run_id: str, header: Mapping[str, Any]) -> dict[str, Any]:
    use = Use(header["use"])
    reply: dict[str, Any] = {"type": _TYPES[use]}
    if use not in _NAMED:
        return {**reply, "sampling_session_id": header["sampling_session_id"]}
    reply["path"] = str(TinkerPath(run_id, _NAMED[use], header["name"]))
    return {**reply, "size_bytes": header["size_bytes"]} if use is Use.EXTERNAL else reply


def _per_datum(header: Mapping[str, Any], arrays: Arrays) -> list[npt.NDArray[np.float32]]:
    shapes: list[list[int]] = header["shapes"]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(arrays["logprobs"], ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _reduced(metrics: Mapping[str, float]) -> dict[str, float]:
    """Each under a name with exactly one colon, behind which stands how the client joins the parts of one call."""
    return {name if name.count(":") == 1 else f"{name.replace(':', '_')}:mean": metrics[name] for name in metrics}
