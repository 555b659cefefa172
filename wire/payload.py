"""How operations and their results are written down: a JSON header and raw arrays, versioned, never pickled.

Layout: magic `HWP1`, uint32 header length, header (UTF-8 JSON), then the arrays back to back. The header's
`arrays` lists name, dtype, and length of each. All little-endian, all one-dimensional.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"HWP1"
_DTYPES = {"int32": "<i4", "float32": "<f4", "float64": "<f8"}

Arrays = Mapping[str, npt.NDArray[Any]]


def encode(header: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """Bytes of a JSON-able header and its one-dimensional arrays (int32, float32 or float64)."""
    arrays = arrays or {}
    table = [{"name": k, "dtype": str(a.dtype), "length": len(a)} for k, a in arrays.items()]
    head = json.dumps({"header": header, "arrays": table}, separators=(",", ":")).encode()
    body = b"".join(np.ascontiguousarray(a, _DTYPES[str(a.dtype)]).tobytes() for a in arrays.values())
    return _MAGIC + struct.pack("<I", len(head)) + head + zlib.compress(body, 1)


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The header and arrays that `encode` wrote. Raises ValueError on anything else."""
    head, at = _head(data)
    body, offset, arrays = zlib.decompress(data[at:]), 0, {}
    for row in head["arrays"]:
        arrays[row["name"]] = np.frombuffer(body, _DTYPES[row["dtype"]], row["length"], offset)
        offset += arrays[row["name"]].nbytes
    return head["header"], arrays


def read_header(data: bytes) -> dict[str, Any]:
    """The header alone, without unpacking the arrays. Raises ValueError as `decode` does."""
    return _head(data)[0]["header"]


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    """The header with the table of arrays, and where these begin."""
    if data[:4] != _MAGIC:
        raise ValueError("not a Headway payload, or of an unknown version")
    (size,) = struct.unpack_from("<I", data, 4)
    return json.loads(data[8 : 8 + size]), 8 + size
