"""An end of a pair of Unix sockets on the event loop: messages with descriptors, and who sent them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from runner.environments.inside import messages
from runner.environments.inside.messages import Received


class Channel:
    """Messages come in a queue; None is the last, when the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[Received | None] = asyncio.Queue()
        self._loop.add_reader(end.fileno(), self._readable)
        self._is_closed = False

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises OSError when the other end is gone, or takes nothing."""
        if self._is_closed:
            raise BrokenPipeError("the sandbox has ended")
        messages.send(self._end, message, descriptors)

    async def receive(self) -> Received | None:
        """The next message; None from the end on."""
        received = await self._received.get()
        if received is None:
            self._received.put_nowait(None)
        return received

    def close(self) -> None:
        """Descriptors that nobody took are closed."""
        if self._is_closed:
            return
        self._stop_reading()
        while not self._received.empty():
            if (received := self._received.get_nowait()) is not None:
                messages.close_all(received.descriptors)
        self._received.put_nowait(None)

    def _readable(self) -> None:
        try:
            received = messages.receive(self._end)
        except BlockingIOError:
            return
        except OSError:
            received = None
        self._received.put_nowait(received)
        if received is None:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._end.fileno())
            self._end.close()
