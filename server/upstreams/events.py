"""The JSON in a stream of server-sent events, as far as it has come."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

_DONE = b"[DONE]"
_MOST_WAITING = 4 * 1024**2
"""Bytes of one event. What is longer is passed on, and not read."""


class JsonEvents:
    """Fed with bytes however they come, it yields the data of each event that is whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._data = list[bytes]()
        self._num_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """The events that end in this chunk; None for `[DONE]`. Other data that is no JSON is left out."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MOST_WAITING:
            self._rest = b""
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._add(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield from self._event()

    def _add(self, line: bytes) -> None:
        self._num_bytes += len(line)
        if self._num_bytes <= _MOST_WAITING:
            self._data.append(line)

    def _event(self) -> Iterator[Any]:
        data, self._data, self._num_bytes = b"\n".join(self._data), [], 0
        if data.strip() == _DONE:
            yield None
            return
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(data)
