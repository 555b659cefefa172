"""What a client sends through a tunnel, read ahead up to a bound.

Reading goes on while the environment starts: a connection that is not read answers no pings, and its client would give
it up after 40 s.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

_MOST_BYTES = 256 * 1024
_FIRST_LINE_S = 5.0


class Inbox:
    """Messages of one client, in order. `receive`: the next one; None when the client has closed."""

    def __init__(self, receive: Callable[[], Awaitable[bytes | None]]) -> None:
        self._receive = receive
        self._messages = deque[bytes]()
        self._num_bytes = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """Read while the block runs."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def get(self) -> bytes | None:
        """The next message; None when the client has closed and all of it was taken."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._messages or self._is_closed)
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._num_bytes -= len(message)
            self._changed.notify_all()
            return message

    async def closed(self) -> None:
        """Wait until the client has closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed)

    async def first_id(self) -> object:
        """The id of the request that its first line is; None where it is none, or does not come."""
        try:
            async with asyncio.timeout(_FIRST_LINE_S), self._changed:
                await self._changed.wait_for(lambda: self._is_closed or self._is_full or b"\n" in self._start())
            request = json.loads(self._start().partition(b"\n")[0])
        except (TimeoutError, ValueError, RecursionError):
            return None
        found = request.get("id") if isinstance(request, dict) else None
        return found if isinstance(found, int | str) else None

    @property
    def _is_full(self) -> bool:
        return self._num_bytes >= _MOST_BYTES

    def _start(self) -> bytes:
        return b"".join(self._messages)

    async def _read(self) -> None:
        try:
            while (message := await self._receive()) is not None:
                async with self._changed:
                    self._messages.append(message)
                    self._num_bytes += len(message)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: not self._is_full)
        finally:
            self._is_closed = True
            async with self._changed:
                self._changed.notify_all()
