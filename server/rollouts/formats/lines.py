"""JSON lines, as they are or compressed: one rollout after the other, so that memory does not grow with the file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from store.rollouts import Resolved

Row = Callable[[Resolved, int], dict[str, Any] | None]
"""A rollout as JSON, given how many rows came before; None: this format leaves it out."""


class Writer(Protocol):
    """Makes a file piece by piece. Blocks: not for the event loop."""

    def write(self, rollouts: Sequence[Resolved]) -> Iterator[bytes]:
        """What these rollouts add to the file, in pieces of some megabytes."""
        ...

    def close(self) -> bytes:
        """What ends the file."""
        ...


class JsonLines:
    """A line for each rollout that the format includes."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._num_rows = 0

    def write(self, rollouts: Sequence[Resolved]) -> Iterator[bytes]:
        """Bytes of the file, to be sent on."""
        written = bytearray()
        for resolved in rollouts:
            row = self._row(resolved, self._num_rows)
            if row is not None:
                self._num_rows += 1
                written += "".join(_line(row)).encode()
        yield bytes(written)

    def close(self) -> bytes:
        """What ends the file."""
        return b""


class Gzipped:
    """Another writer's file, compressed. Without its end it does not unpack."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def write(self, rollouts: Sequence[Resolved]) -> Iterator[bytes]:
        """Bytes of the file; few while the compressor waits for more."""
        return map(self._compressor.compress, self._writer.write(rollouts))

    def close(self) -> bytes:
        """What ends the file."""
        return self._compressor.compress(self._writer.close()) + self._compressor.flush()


def _line(row: dict[str, Any]) -> Iterator[str]:
    """Turn by turn: the encoder holds the interpreter, and a long rollout has megabytes."""
    rest = {name: value for name, value in row.items() if name != "turns"}
    if "turns" not in row:
        yield json.dumps(rest) + "\n"
        return
    yield json.dumps(rest)[:-1] + ', "turns": ['
    for number, turn in enumerate(row["turns"]):
        yield (", " if number else "") + json.dumps(turn, default=_as_list)
    yield "]}\n"


def _as_list(array: Any) -> list[Any]:
    assert isinstance(array, np.ndarray)
    return array.tolist()
