"""What was sampled as the SDK reads it: protobuf, and JSON for releases before 0.25."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic_core import to_json

from server.protocols.tinker.messages import tinker_pb2 as messages
from server.sampling_sessions.calls import TargetMatrix
from server.sampling_sessions.results import NO_LOGPROB, Alternatives, Sampled, SampledSequence

_STOP_REASONS = {"stop": messages.STOP_REASON_STOP, "length": messages.STOP_REASON_LENGTH}


def as_protobuf(sampled: Sampled) -> bytes:
    """A SampleResponse."""
    reply = messages.SampleResponse(sequences=[_sequence(one) for one in sampled.sequences])
    if sampled.prompt_logprobs_P is not None:
        reply.prompt_logprobs = _float32(sampled.prompt_logprobs_P)
    if sampled.prompt_alternatives is not None:
        reply.topk_prompt_logprobs.CopyFrom(_top(sampled.prompt_alternatives))
    if sampled.targets is not None:
        reply.target_prompt_logprobs.CopyFrom(_targets(sampled.targets, sampled.target_logprobs))
    return reply.SerializeToString()


def as_json(sampled: Sampled) -> bytes:
    """The same in JSON."""
    reply: dict[str, Any] = {"type": "sample", "sequences": [_sequence_json(one) for one in sampled.sequences]}
    if sampled.prompt_logprobs_P is not None:
        logprobs: list[float] = sampled.prompt_logprobs_P.tolist()
        reply["prompt_logprobs"] = [None if math.isnan(logprob) else logprob for logprob in logprobs]
    if sampled.prompt_alternatives is not None:
        reply["topk_prompt_logprobs"] = _top_json(sampled.prompt_alternatives)
    if sampled.targets is not None:
        reply["target_prompt_logprobs"] = _targets_json(sampled.targets, sampled.target_logprobs)
    return to_json(reply)


def _sequence(sequence: SampledSequence) -> messages.SampledSequence:
    reply = messages.SampledSequence(
        stop_reason=_STOP_REASONS[sequence.stop_reason],
        tokens=_int32(sequence.tokens_N),
        logprobs=_float32(sequence.logprobs_N),
    )
    if sequence.alternatives is not None:
        reply.topk_sampled_logprobs.CopyFrom(_top(sequence.alternatives))
    return reply


def _top(alternatives: Alternatives) -> messages.TopkLogprobs:
    length, width = alternatives.ids_NK.shape
    return messages.TopkLogprobs(
        token_ids=_int32(alternatives.ids_NK), logprobs=_float32(alternatives.logprobs_NK), k=width, length=length
    )


def _targets(matrix: TargetMatrix, logprobs: Any) -> messages.Tensor:
    reply = messages.Tensor(dtype=messages.DTYPE_FLOAT32, shape=matrix.shape)
    if matrix.row_pointers is None:
        reply.dense = _float32(logprobs)
        return reply
    reply.sparse_csr.values = _float32(logprobs)
    reply.sparse_csr.crow_indices = _int64(matrix.row_pointers)
    reply.sparse_csr.col_indices = _int64(matrix.columns)
    return reply


def _sequence_json(sequence: SampledSequence) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "tokens": sequence.tokens_N.tolist(),
        "logprobs": sequence.logprobs_N.tolist(),
        "stop_reason": sequence.stop_reason,
    }
    if sequence.alternatives is not None:
        reply["topk_logprobs"] = _top_json(sequence.alternatives)
    return reply


def _top_json(alternatives: Alternatives) -> list[list[tuple[int, float]] | None]:
    """Without what the rows are filled up with."""
    rows = zip(alternatives.ids_NK.tolist(), alternatives.logprobs_NK.tolist(), strict=True)
    pairs = ([pair for pair in zip(*row, strict=True) if pair[1] != NO_LOGPROB] for row in rows)
    return [row or None for row in pairs]


def _targets_json(matrix: TargetMatrix, logprobs: Any) -> dict[str, Any]:
    reply: dict[str, Any] = {"data": logprobs.tolist(), "dtype": "float32", "shape": list(matrix.shape)}
    if matrix.row_pointers is not None and matrix.columns is not None:
        reply["sparse_crow_indices"] = matrix.row_pointers.tolist()
        reply["sparse_col_indices"] = matrix.columns.tolist()
    return reply


def _int32(values: Any) -> bytes:
    return np.ascontiguousarray(values, "<i4").tobytes()


def _int64(values: Any) -> bytes:
    return np.ascontiguousarray(values, "<i8").tobytes()


def _float32(values: Any) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
