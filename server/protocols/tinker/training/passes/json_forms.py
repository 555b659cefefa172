"""Gradient passes and their results in JSON, as older SDKs send and read them. Lists of numbers never become Python
objects as a whole (`server.uploads.json_scanner`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json, to_json

from server.protocols.tinker.training.passes.sent import TEXT, SentChunk, SentDatum, SentPass, SentTensor
from server.uploads.json_scanner import JsonScanner
from wire.errors import InvalidRequest

_INPUTS = ("forward_backward_input", "forward_input")
_INDICES = ("sparse_crow_indices", "sparse_col_indices")
_DTYPES = {"float32": np.dtype(np.float32), "int64": np.dtype(np.int64)}


@dataclass(frozen=True, slots=True)
class JsonPass:
    """A body whose lists of numbers were cut out, of which only the envelope has been looked at."""

    body: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]
    is_forward: bool

    @property
    def model_id(self) -> str:
        """The run. Raises InvalidRequest."""
        return _text(self.body.get("model_id"), "model_id")

    @property
    def number(self) -> int:
        """The client's number of the request. Raises InvalidRequest."""
        return _number(self.body.get("seq_id"))

    def read(self) -> SentPass:
        """What it holds. Raises InvalidRequest."""
        given = next((self.body[name] for name in _INPUTS if self.body.get(name) is not None), None)
        given = _object(given, _INPUTS[self.is_forward])
        config = _object(given.get("loss_fn_config") or {}, "loss_fn_config")
        data = given.get("data")
        if not isinstance(data, list):
            raise InvalidRequest("data must be a list of datums")
        datums = [self._datum(index, _object(datum, f"datum {index}")) for index, datum in enumerate(data)]
        return SentPass(datums, _text(given.get("loss_fn"), "loss_fn"), config)

    def _datum(self, index: int, datum: Mapping[str, Any]) -> SentDatum:
        where = f"datum {index}"
        model_input = _object(datum.get("model_input"), f"{where}: model_input")
        inputs = _object(datum.get("loss_fn_inputs") or {}, f"{where}: loss_fn_inputs")
        tensors = {name: self._tensor(f"{where}: {name}", value) for name, value in inputs.items()}
        return SentDatum(list(self._chunks(where, model_input.get("chunks"))), tensors)

    def _chunks(self, where: str, chunks: Any) -> Iterator[SentChunk]:
        if not isinstance(chunks, list):
            raise InvalidRequest(f"{where}: model_input.chunks must be a list")
        for chunk in chunks:
            chunk = _object(chunk, f"{where}: a chunk of model_input")
            kind = chunk.get("type", "encoded_text")
            if kind == "encoded_text":
                yield SentChunk(TEXT, self._integers(f"{where}: tokens", chunk.get("tokens")))
            else:
                fields = {name: self._uncut(chunk[name]) for name in chunk if name != "type"}
                yield SentChunk(_text(kind, f"{where}: type of a chunk"), fields=fields)

    def _tensor(self, where: str, value: Any) -> SentTensor:
        if isinstance(value, str | list):  # the bare list of the oldest SDKs
            return SentTensor(self._numbers(where, value))
        tensor = _object(value, where)
        dtype = tensor.get("dtype", "float32")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise InvalidRequest(f"{where} has a type other than float32 and int64")
        values = self._numbers(where, tensor.get("data"))
        if dtype == "int64" and values.dtype.kind != "i":
            raise InvalidRequest(f"{where} is said to hold integers of 64 bits, and holds other numbers")
        shape = tensor.get("shape")
        crow, col = (tensor.get(name) for name in _INDICES)
        is_sparse = crow is not None or col is not None
        return SentTensor(
            values.astype(_DTYPES[dtype]),
            None if shape is None else tuple(self._integers(f"{where}: shape", shape).tolist()),
            self._integers(f"{where}: {_INDICES[0]}", crow) if is_sparse else None,
            self._integers(f"{where}: {_INDICES[1]}", col) if is_sparse else None,
        )

    def _uncut(self, value: Any) -> Any:
        """With the list of numbers that it may stand for."""
        return self.arrays[value].tolist() if isinstance(value, str) and value in self.arrays else value

    def _integers(self, where: str, value: Any) -> npt.NDArray[np.int64]:
        numbers = self._numbers(where, value)
        if numbers.dtype.kind != "i":
            raise InvalidRequest(f"{where} must be a list of integers of 64 bits")
        return numbers.astype(np.int64)

    def _numbers(self, where: str, value: Any) -> npt.NDArray[Any]:
        if isinstance(value, str) and value in self.arrays:
            return self.arrays[value]
        if value == []:
            return np.zeros(0, np.int32)
        raise InvalidRequest(f"{where} must be a list of numbers")


def parse_pass(content: bytes, max_tokens: int, *, is_forward: bool) -> JsonPass:
    """Raises InvalidRequest for what is no JSON object, TooLarge for too many numbers."""
    scanner = JsonScanner(max_tokens)
    scanner.feed(content)
    return JsonPass(parse_object(scanner.finish()), scanner.arrays, is_forward)


def parse_object(content: bytes) -> dict[str, Any]:
    """Raises InvalidRequest for what is no JSON object."""
    try:
        body = from_json(content)
    except ValueError:
        raise InvalidRequest("the body is not valid JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def encode_output(logprobs: Sequence[npt.NDArray[np.float32]], metrics: Mapping[str, float]) -> bytes:
    """A ForwardBackwardOutput, written datum by datum."""
    outputs = b",".join(
        to_json({"logprobs": {"data": array.ravel().tolist(), "dtype": "float32", "shape": array.shape}})
        for array in logprobs
    )
    rest = to_json({"loss_fn_output_type": "ArrayRecord", "metrics": dict(metrics)}, inf_nan_mode="constants")
    return rest[:-1] + b',"loss_fn_outputs":[' + outputs + b"]}"


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be an object")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest("seq_id must be an integer")
    return value
