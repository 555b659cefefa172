"""Datums as they were sent, as those of the core; and what is wrong with them, each in a sentence that names the datum.

The client has shifted its targets: position t of the input predicts target t. Every position is scored. A picture has
as many positions as it has placeholders.
"""

# N tokens of the model input, placeholders of pictures included, K targets a position

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from server.pictures.prompts import ChunkedPrompt
from server.protocols.tinker.training.passes.sent import TEXT, SentChunk, SentDatum, SentPass, SentTensor
from wire import prompt_chunks
from wire.datums import Datum, fully_scored
from wire.engine import BaseModelInfo
from wire.errors import InvalidRequest, TooLarge
from wire.extension import TokenSequence
from wire.prompt_chunks import read_chunks
from wire.trajectories import Float32Array, Float64Array, Int32Array

_SUPERVISED = "cross_entropy"
_TARGETS, _WEIGHTS, _LOGPROBS, _ADVANTAGES = "target_tokens", "weights", "logprobs", "advantages"
_RATIO_MASK, _IGNORED = "sequence_ratio_mask", "mask"
_RATIO_LOSSES = ("gspo",)


def read_inputs(sent: SentPass, info: BaseModelInfo) -> list[ChunkedPrompt]:
    """The model inputs of all datums, in order. Raises InvalidRequest."""
    return [_read_input(f"datum {index}", datum.chunks, info) for index, datum in enumerate(sent.datums)]


def to_datums(sent: SentPass, inputs: Sequence[TokenSequence], info: BaseModelInfo, max_targets: int) -> list[Datum]:
    """All datums, in order, given what their model inputs are. Raises InvalidRequest or TooLarge."""
    if not sent.datums:
        raise InvalidRequest("data is empty, so there is nothing to compute")
    num_targets = sum(_announced_targets(datum, len(one)) for datum, one in zip(sent.datums, inputs, strict=True))
    if num_targets > max_targets:
        raise TooLarge(
            f"the batch has {num_targets} targets, more than the {max_targets} that this server takes at once"
        )
    both = zip(sent.datums, inputs, strict=True)
    return [_to_datum(index, datum, model_input, sent.loss_fn, info) for index, (datum, model_input) in enumerate(both)]


def _announced_targets(datum: SentDatum, num_tokens: int) -> int:
    """Before a sparse matrix is written out, however large it says that it is."""
    targets = datum.inputs.get(_TARGETS)
    if targets is None or targets.shape is None or len(targets.shape) != 2:
        return num_tokens
    return max(0, targets.shape[0]) * max(0, targets.shape[1])


def _to_datum(index: int, sent: SentDatum, model_input: TokenSequence, loss_fn: str, info: BaseModelInfo) -> Datum:
    where = f"datum {index}"
    _check_length(where, model_input, info)
    _check_names(where, sent.inputs, loss_fn)
    reads = _Inputs(where, sent.inputs, len(model_input))
    targets = _targets(reads, info, takes_several=loss_fn == _SUPERVISED)
    if loss_fn == _SUPERVISED:
        weights = reads.floats(_WEIGHTS, targets.shape) if _WEIGHTS in sent.inputs else None
        return fully_scored(model_input, targets, index, weights=weights)
    one_each = (len(model_input),)
    advantages: Float64Array = reads.floats(_ADVANTAGES, one_each).astype(np.float64)
    sampling = (reads.floats(_LOGPROBS, one_each), advantages)
    in_ratio = reads.floats(_RATIO_MASK, one_each) != 0 if _RATIO_MASK in sent.inputs else None
    return fully_scored(model_input, targets, index, sampling=sampling, in_ratio=in_ratio)


def _read_input(where: str, chunks: Sequence[SentChunk], info: BaseModelInfo) -> ChunkedPrompt:
    for chunk in chunks:
        if chunk.kind == TEXT and len(chunk.tokens):
            _check_ids(f"{where}: its model input", chunk.tokens, info)
    return ChunkedPrompt(where, read_chunks(where, [_as_read(chunk) for chunk in chunks]))


def _as_read(chunk: SentChunk) -> dict[str, Any]:
    if chunk.kind == TEXT:
        return {"type": prompt_chunks.TEXT, "tokens": chunk.tokens}
    return {**chunk.fields, "type": chunk.kind}


def _check_length(where: str, model_input: TokenSequence, info: BaseModelInfo) -> None:
    if not len(model_input):
        raise InvalidRequest(f"{where}: its model input is empty")
    if len(model_input) > info.context_length:
        raise InvalidRequest(
            f"{where}: its {len(model_input)} tokens are more than the model's context of {info.context_length}"
        )


def _check_names(where: str, inputs: Mapping[str, SentTensor], loss_fn: str) -> None:
    required = [_TARGETS] if loss_fn == _SUPERVISED else [_TARGETS, _LOGPROBS, _ADVANTAGES]
    optional = [_WEIGHTS] if loss_fn == _SUPERVISED else [_RATIO_MASK] if loss_fn in _RATIO_LOSSES else []
    for name in required:
        if name not in inputs:
            raise InvalidRequest(f"{where}: loss_fn_inputs has no {name!r}, which {loss_fn} needs")
    for name in sorted(inputs):
        if name not in (*required, *optional, _IGNORED):
            known = ", ".join((*required, *optional))
            raise InvalidRequest(
                f"{where}: loss_fn_inputs has {name!r}, which {loss_fn} does not know; it takes {known}"
            )


def _targets(reads: _Inputs, info: BaseModelInfo, *, takes_several: bool) -> Int32Array:
    """(N,) or (N, K)."""
    targets = reads.dense(_TARGETS)
    where = f"{reads.where}: {_TARGETS}"
    if targets.dtype.kind != "i":
        raise InvalidRequest(f"{where} must be integers")
    if targets.ndim == 2 and not takes_several:
        raise InvalidRequest(f"{where} has {targets.shape[1]} targets a position, which cross_entropy alone takes")
    _check_ids(where, targets, info)
    return targets.astype(np.int32)


def _check_ids(where: str, ids: npt.NDArray[Any], info: BaseModelInfo) -> None:
    if not ids.size:
        raise InvalidRequest(f"{where} is empty")
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= info.vocab_size:
        bad = lowest if lowest < 0 else highest
        raise InvalidRequest(f"{where} holds {bad}, which is outside the vocabulary of {info.vocab_size} tokens")


class _Inputs:
    """The arrays of one datum, whose input has N tokens."""

    def __init__(self, where: str, inputs: Mapping[str, SentTensor], num_tokens: int) -> None:
        self.where = where
        self._inputs = inputs
        self._num_tokens = num_tokens

    def dense(self, name: str, wanted: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        """(N,) or (N, K); of the shape that is wanted, if one is. Raises InvalidRequest, for a wrong shape before
        anything of that shape is made."""
        where, tensor = f"{self.where}: {name}", self._inputs[name]
        shape = tensor.shape if tensor.shape is not None else (len(tensor.values),)
        if len(shape) not in (1, 2) or any(length < 0 for length in shape):
            raise InvalidRequest(
                f"{where} has the shape {_shown(shape)}; it must have one value a position, or one row"
            )
        if shape[0] != self._num_tokens:
            raise InvalidRequest(f"{where} has {shape[0]} positions, but the model input has {self._num_tokens} tokens")
        if wanted is not None and shape != wanted:
            raise InvalidRequest(f"{where} has the shape {_shown(shape)}; it must be {_shown(wanted)}")
        if tensor.crow is not None and tensor.col is not None:
            return _written_out(where, tensor, tensor.crow, tensor.col, shape)
        if tensor.values.size != math.prod(shape):
            raise InvalidRequest(
                f"{where} has {tensor.values.size} values, which do not fill the shape {_shown(shape)}"
            )
        return tensor.values.reshape(shape)

    def floats(self, name: str, shape: tuple[int, ...]) -> Float32Array:
        """Finite numbers of this shape. Raises InvalidRequest."""
        with np.errstate(over="ignore"):
            values = self.dense(name, shape).astype(np.float32)
        if not np.isfinite(values).all():
            raise InvalidRequest(f"{self.where}: {name} holds a value that is not a finite number")
        return values


def _written_out(
    where: str, tensor: SentTensor, crow: npt.NDArray[Any], col: npt.NDArray[Any], shape: Sequence[int]
) -> npt.NDArray[Any]:
    """A sparse matrix with its zeros. Raises InvalidRequest where its indices contradict one another."""
    if len(shape) != 2:
        raise InvalidRequest(f"{where} is sparse and has the shape {_shown(shape)}; it must be a matrix")
    num_rows, num_columns = shape
    counts = np.diff(crow)
    is_whole = len(crow) == num_rows + 1 and crow[0] == 0 and crow[-1] == len(col) == len(tensor.values)
    is_inside = not ((crow < 0) | (crow > len(col))).any() and not ((col < 0) | (col >= num_columns)).any()
    if not is_whole or not is_inside or (counts < 0).any():
        raise InvalidRequest(f"{where} is sparse, and its indices do not describe a matrix of {_shown(shape)}")
    places = np.repeat(np.arange(num_rows), counts) * num_columns + col
    if (np.diff(places) <= 0).any():
        raise InvalidRequest(f"{where} is sparse, and its columns do not ascend within a row")
    dense = np.zeros(num_rows * num_columns, tensor.values.dtype)
    dense[places] = tensor.values
    return dense.reshape(num_rows, num_columns)


def _shown(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
