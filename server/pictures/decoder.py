"""Decodes pictures in processes of their own, with bounds on memory and time: decoders read strangers' bytes, take
hundreds of megabytes, and hold the interpreter.

A process is started by the first picture that needs it, ends when the server ends, and is replaced when it dies or
takes too long.
"""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from wire.errors import InvalidRequest, Unavailable, error_from_code
from wire.pictures import PictureLimits
from wire.process.connected_child import ConnectedChild

log = structlog.get_logger(__name__)

_NUM_PROCESSES = 2
_PATIENCE_S = 15.0
_ATTEMPTS = 2
_NOT_PASSED_ON = ("HEADWAY_", "AWS_", "PG", "PROMETHEUS_")
"""Of variables that a process which reads strangers' bytes has no need of."""
_PLENTY_BYTES = 16 * 1024**2
"""Of a picture or its PNG: a process that held more of them ends, for an allocator keeps what it once took."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The canonical PNG of a picture (`server.pictures.decoding`), and its size in pixels."""

    png: bytes
    width: int
    height: int


class PictureDecoder:
    """Those of one server process. Pictures wait for one another where there are more of them than processes."""

    def __init__(self, limits: PictureLimits, *, patience_s: float = _PATIENCE_S) -> None:
        self._limits = limits
        self._children = [_Child(patience_s) for _ in range(_NUM_PROCESSES)]
        self._idle = list(self._children)
        self._threads = ThreadPoolExecutor(_NUM_PROCESSES, "decoder")

    @property
    def pids(self) -> list[int]:
        """Of the processes that there are."""
        return [child.pid for child in self._children if child.pid is not None]

    async def decode(self, data: bytes, *, longest_side: int | None = None) -> Decoded:
        """The picture, scaled down until its longer side has `longest_side` pixels at most.

        Raises InvalidRequest or TooLarge for what is not taken, also where it ends its process or takes too long; what
        they say goes on from "the picture …". Raises Unavailable when the server stops.
        """
        asked = {"limits": asdict(self._limits), "longest_side": longest_side}
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, asked, data)

    async def close(self) -> None:
        """End the processes, whatever they do."""
        for child in self._children:
            child.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        for child in self._children:
            child.forget()

    def _decode(self, asked: dict[str, Any], data: bytes) -> Decoded:
        child = self._idle.pop()  # as many threads as children
        try:
            return child.decode(asked, data)
        finally:
            self._idle.append(child)


class _Child(ConnectedChild):
    """One process, and the time that a picture may take in it."""

    def __init__(self, patience_s: float) -> None:
        super().__init__("server.pictures.decoder_process", _NOT_PASSED_ON, {"OPENBLAS_NUM_THREADS": "1"})
        self._patience_s = patience_s

    def decode(self, asked: dict[str, Any], data: bytes) -> Decoded:
        """See PictureDecoder."""
        for _ in range(_ATTEMPTS):
            if self.is_closed:
                raise Unavailable("the server is stopping; nothing was accepted, send it again")
            try:
                said, png = self._exchange(asked, data)
            except (EOFError, OSError) as error:
                log.warning("decoder_lost", reason=str(error) or type(error).__name__, picture_bytes=len(data))
                continue
            if "code" in said:
                raise error_from_code(said["code"], said["message"])
            return Decoded(png, said["width"], said["height"])
        raise InvalidRequest("cannot be decoded: the process that tried ended over it")

    def _exchange(self, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Raises EOFError or OSError for a child that died, and InvalidRequest for a picture that takes too long."""
        is_whole, png, watchdog = False, b"", threading.Timer(self._patience_s, self.kill)
        connection = self.connected()
        watchdog.start()
        try:
            connection.send_bytes(json.dumps(asked).encode())
            connection.send_bytes(data)
            said, png = json.loads(connection.recv_bytes()), connection.recv_bytes()
            is_whole = True
            return said, png
        except (EOFError, OSError):
            if watchdog.finished.is_set():
                raise InvalidRequest(f"takes more than {self._patience_s:.0f} s to decode; scale it down") from None
            raise
        finally:
            watchdog.cancel()
            if not is_whole or max(len(data), len(png)) > _PLENTY_BYTES:
                self.forget()
