"""Gradient passes and their results in protobuf: arrays as little-endian bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from server.protocols.tinker.messages import tinker_pb2 as pb
from server.protocols.tinker.training.passes.sent import TEXT, SentChunk, SentDatum, SentPass, SentTensor
from wire.errors import InvalidRequest

MEDIA_TYPE = "application/x-protobuf"
_DTYPES = {pb.DTYPE_FLOAT32: np.dtype("<f4"), pb.DTYPE_INT64: np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class ProtobufPass:
    """A message, of which only the envelope has been looked at."""

    message: pb.ForwardBackwardRequest

    @property
    def model_id(self) -> str:
        """The run."""
        return self.message.model_id

    @property
    def number(self) -> int:
        """The client's number of the request."""
        return self.message.seq_id

    @property
    def is_forward(self) -> bool:
        """No gradient is asked for."""
        return self.message.forward_only

    def read(self) -> SentPass:
        """What it holds. Raises InvalidRequest."""
        message = self.message
        config: dict[str, float | str] = dict(message.loss_fn_config)
        if message.loss_fn_config_v2:
            config = {name: _config_value(value) for name, value in message.loss_fn_config_v2.items()}
        return SentPass([_datum(index, datum) for index, datum in enumerate(message.data)], message.loss_fn, config)


def parse_pass(content: bytes) -> ProtobufPass:
    """Raises InvalidRequest for what is no such message."""
    try:
        return ProtobufPass(pb.ForwardBackwardRequest.FromString(content))
    except DecodeError:
        raise InvalidRequest("the body is not a ForwardBackwardRequest in protobuf") from None


def encode_output(logprobs: Sequence[npt.NDArray[np.float32]], metrics: Mapping[str, float]) -> bytes:
    """A ForwardBackwardOutput. Datums that follow one another with rows of one length are one record."""
    output = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics=dict(metrics))
    for trailing, of_one_shape in groupby(logprobs, key=lambda array: array.shape[1:]):
        arrays = list(of_one_shape)
        record = output.loss_fn_outputs.add(num_datums=len(arrays))
        tensor = record.fields["logprobs"]
        tensor.data = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)
        tensor.offsets = np.cumsum([0, *(4 * array.size for array in arrays)]).astype("<i8").tobytes()
        tensor.dtype = pb.DTYPE_FLOAT32
        tensor.trailing_shape.extend(trailing)
    return output.SerializeToString()


def _config_value(value: pb.LossConfigValue) -> float | str:
    return value.text if value.WhichOneof("value") == "text" else value.number


def _datum(index: int, datum: pb.Datum) -> SentDatum:
    inputs = {name: _tensor(f"datum {index}: {name}", tensor) for name, tensor in datum.loss_fn_inputs.items()}
    return SentDatum(list(_chunks(index, datum.model_input)), inputs)


def _chunks(index: int, chunks: Any) -> Iterator[SentChunk]:
    for chunk in chunks:
        kind: str = chunk.WhichOneof("chunk") or "nothing"
        if kind == "encoded_text":
            yield SentChunk(TEXT, _array(f"datum {index}: tokens", chunk.encoded_text.tokens, np.dtype("<i4")))
        elif kind == "image":
            yield SentChunk(kind, fields=_picture(chunk.image))
        else:
            yield SentChunk(kind)


def _picture(image: pb.ImageChunk) -> dict[str, Any]:
    fields: dict[str, Any] = {"data": image.data, "format": image.format}
    if image.HasField("expected_tokens"):
        fields["expected_tokens"] = image.expected_tokens
    if image.HasField("override_dimensions"):
        fields["override_dimensions"] = [image.override_dimensions.width, image.override_dimensions.height]
    return fields


def _tensor(where: str, tensor: pb.Tensor) -> SentTensor:
    if tensor.dtype not in _DTYPES:
        raise InvalidRequest(f"{where} has a type other than float32 and int64")
    dtype = _DTYPES[tensor.dtype]
    shape = tuple(tensor.shape) or None  # the SDK leaves out what a caller did not give: a vector
    if tensor.WhichOneof("encoding") != "sparse_csr":
        return SentTensor(_array(where, tensor.dense, dtype), shape)
    sparse, index = tensor.sparse_csr, np.dtype("<i8")
    return SentTensor(
        _array(where, sparse.values, dtype),
        shape,
        _array(where, sparse.crow_indices, index),
        _array(where, sparse.col_indices, index),
    )


def _array(where: str, content: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if len(content) % dtype.itemsize:
        raise InvalidRequest(f"{where} has {len(content)} bytes, which is no whole number of {dtype.name} values")
    return np.frombuffer(content, dtype)
