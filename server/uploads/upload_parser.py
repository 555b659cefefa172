"""Reading large uploads in a process of its own: parsing JSON holds the interpreter, and with it the event loop.

The process is started by the first upload that is worth it. It gets the client's bytes as bytes, and answers with
types of ours. It ends when the server ends, however that ends, and is replaced when it dies or has grown large.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from wire.errors import Unavailable, error_from_code
from wire.process.connected_child import ConnectedChild
from wire.process.off_loop import off_loop

log = structlog.get_logger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

_APART_BYTES = 64 * 1024
"""Less is read sooner than it is sent to another process, and holds the interpreter for few milliseconds."""
_MOST_BYTES = 16 * 1024**2
"""After a larger upload the process ends: an allocator keeps what it once took."""
_ATTEMPTS = 2
_NOT_PASSED_ON = ("HEADWAY_", "AWS_", "PG", "PROMETHEUS_")
"""Of variables that a process which reads strangers' bytes has no need of."""


class UploadParser:
    """One of each server process. Uploads wait for one another, so that one at a time takes memory."""

    def __init__(self) -> None:
        self._small = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "reader")
        self._child = ConnectedChild(
            "server.uploads.parser_process", _NOT_PASSED_ON, {"OPENBLAS_NUM_THREADS": "1"}, lambda _: self._started()
        )

    @property
    def pid(self) -> int | None:
        """Of the process, once there is one."""
        return self._child.pid

    async def read(self, data: bytes, work: Callable[Concatenate[bytes, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work`, a function of a module, makes of the data and of other arguments.

        Raises whatever HeadwayError `work` raises, and Unavailable when the process died over it again and again.
        """
        if len(data) <= _APART_BYTES:
            async with self._small:
                return await off_loop(len(data), work, data, *args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ask, data, work, args, kwargs)

    async def close(self) -> None:
        """End the process, whatever it does."""
        self._child.close()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._child.forget()

    def _ask(self, data: bytes, work: Any, args: Any, kwargs: Any) -> Any:
        for _ in range(_ATTEMPTS):
            if self._child.is_closed:
                raise Unavailable("the server is stopping; nothing was accepted, send it again")
            try:
                code, result = self._exchange(data, work, args, kwargs)
            except (EOFError, OSError) as error:
                log.warning("reader_lost", reason=str(error) or type(error).__name__, upload_bytes=len(data))
                continue
            if code is not None:
                raise error_from_code(code, result)
            return result
        raise Unavailable("the process that reads uploads ended over it; nothing was accepted, send it again")

    def _exchange(self, data: bytes, work: Any, args: Any, kwargs: Any) -> tuple[str | None, Any]:
        connection, is_whole = self._child.connected(), False
        try:
            connection.send((work, args, kwargs))
            connection.send_bytes(data)
            answer = connection.recv()
            is_whole = True
        finally:
            if not is_whole or len(data) > _MOST_BYTES:
                self._child.forget()
        return answer

    def _started(self) -> None:
        log.info("reader_started", pid=self.pid)
