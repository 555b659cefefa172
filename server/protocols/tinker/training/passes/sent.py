"""A gradient pass as it was sent, whichever form it came in. Nothing of it has been checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT = "text"


@dataclass(frozen=True, slots=True)
class SentTensor:
    """An array of any shape. `values` is flat; with `crow` and `col`, the listed entries of a sparse matrix in
    CSR form."""

    values: npt.NDArray[Any]
    shape: tuple[int, ...] | None = None
    crow: npt.NDArray[Any] | None = None
    col: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class SentChunk:
    """A piece of a model input. `kind`: `TEXT`, or what the client calls it, which has no tokens here, but `fields` as
    `wire.prompt_chunks` reads them."""

    kind: str
    tokens: npt.NDArray[np.integer[Any]] = field(default_factory=lambda: np.zeros(0, np.int32))
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class SentDatum:
    """One datum: its input in pieces, and arrays by the names that the loss has for them."""

    chunks: Sequence[SentChunk]
    inputs: Mapping[str, SentTensor]


@dataclass(frozen=True, slots=True)
class SentPass:
    """What is to be computed over which datums."""

    datums: Sequence[SentDatum]
    loss_fn: str
    config: Mapping[str, float | str]

    def digest(self, kind: str) -> bytes:
        """SHA-256; equal for passes that ask for the same, in whichever order a map was written."""
        digest = hashlib.sha256()
        _add(digest, [kind, self.loss_fn, sorted(self.config.items()), len(self.datums)])
        for datum in self.datums:
            _add(digest, [[chunk.kind, len(chunk.tokens)] for chunk in datum.chunks])
            for chunk in datum.chunks:
                _add_array(digest, chunk.tokens)
                if chunk.fields:
                    _add(digest, {name: _shown(chunk.fields[name]) for name in sorted(chunk.fields)})
            for name in sorted(datum.inputs):
                tensor = datum.inputs[name]
                _add(digest, [name, tensor.shape])
                for array in (tensor.values, tensor.crow, tensor.col):
                    _add_array(digest, array)
        return digest.digest()


def _shown(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def _add(digest: Any, value: Any) -> None:
    digest.update(json.dumps(value).encode("utf-8", "surrogatepass"))


def _add_array(digest: Any, array: npt.NDArray[Any] | None) -> None:
    if array is not None:
        _add(digest, [str(array.dtype), len(array)])
        digest.update(np.ascontiguousarray(array).data)
