"""Fields of pydantic models that are parsed from what `server.uploads.json_scanner` leaves of a JSON text.

Its arrays and blobs are the validation context; a field picks one up by the placeholder that stands in its stead.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, ValidationInfo, WithJsonSchema

from wire.trajectories import Float32Array, Int32Array


def _cut_array(value: Any, info: ValidationInfo, what: str) -> npt.NDArray[Any]:
    found = (info.context or {}).get(value) if isinstance(value, str) else None
    if isinstance(found, np.ndarray):
        return found
    if value == []:
        return np.zeros(0, np.int32)
    raise ValueError(f"must be a list of {what}")


def _token_ids(value: Any, info: ValidationInfo) -> npt.NDArray[Any]:
    """int32, or int64 where an id does not fit, which no vocabulary holds."""
    array = _cut_array(value, info, "integers")
    if array.dtype.kind != "i":
        raise ValueError("must be a list of integers")
    return array


def _floats(value: Any, info: ValidationInfo) -> Float32Array:
    array = _cut_array(value, info, "numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _text(value: str, info: ValidationInfo) -> str:
    if value in (info.context or {}):
        raise ValueError("must not be a list of numbers, or that long")
    return value


_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_NUMBERS = {"type": "array", "items": {"type": "number"}}

TokenIds: TypeAlias = Annotated[Int32Array, PlainValidator(_token_ids), WithJsonSchema(_INTEGERS)]
Text: TypeAlias = Annotated[str, AfterValidator(_text)]
Floats: TypeAlias = Annotated[Float32Array, PlainValidator(_floats), WithJsonSchema(_NUMBERS)]


class Closed(BaseModel):
    """A request or reply in which every unknown field is an error, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
