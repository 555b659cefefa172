"""Bounds the memory of large bodies in a server process: each reserves its bytes before they are read, in turn.

A client that is not read yet is held back by its connection. So many clients with large bodies wait for one another,
where otherwise each would leave its body in memory until the process for uploads comes to it.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.exceptions import HTTPException

_RETRY_AFTER_S = 10


class BodiesInTheWay(HTTPException):
    """No memory came free in time. FastAPI lets only its own kind of exception through where a body is read."""

    def __init__(self, waited_s: float) -> None:
        sentence = (
            f"this server reads as many large requests as it has memory for, and none ended within {waited_s:.0f} s; "
            "nothing was accepted, send it again"
        )
        super().__init__(503, sentence, {"Retry-After": str(_RETRY_AFTER_S)})


class BodyMemory:
    """Of one server process. Everything here belongs to one event loop."""

    def __init__(self, num_bytes: int, wait_s: float) -> None:
        self._num_bytes = num_bytes
        self._free = num_bytes
        self._wait_s = wait_s
        self._waiting = deque[tuple[int, asyncio.Future[None]]]()

    async def take(self, num_bytes: int) -> int:
        """Wait for so many bytes; how many to give back. Raises BodiesInTheWay."""
        wanted = min(num_bytes, self._num_bytes)
        if not self._waiting and wanted <= self._free:
            self._free -= wanted
            return wanted
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await self._granted(wanted, turn)
        except TimeoutError:
            raise BodiesInTheWay(self._wait_s) from None
        return wanted

    def give_back(self, num_bytes: int) -> None:
        """These bytes are not in memory any more."""
        self._free += num_bytes
        self._let_in()

    async def _granted(self, wanted: int, turn: asyncio.Future[None]) -> None:
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was granted in the same moment
                self._free += wanted
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif wanted <= self._free:
                self._waiting.popleft()
                self._free -= wanted
                turn.set_result(None)
            else:
                return
