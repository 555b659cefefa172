"""Graceful shutdown of a server process: which requests are under way, and what those do that wait for another plane.

At SIGTERM `/readyz` turns to 503 first. Then whatever waits for another plane is refused with ServerStopping at once:
what it waits for goes on without it. What is being worked on has a while to end; what does not end in it is cancelled,
and refused in the same way. `server.http.draining` turns the refusal into a response.

Whoever waits for another plane in a request does it within `Shutdown.waiting`. What waits without it is found by the
end of that while, so that no request ends in a bare 500.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

import structlog

from server.process.settings import StopSettings
from wire.errors import UNTIL_MENDED, Unavailable

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
_LAST_WORDS_S = 2.0
"""For a refusal to reach a client, who may read slowly."""


class ServerStopping(Unavailable):
    """This process ends; another, or its successor, takes the same call again."""

    code: ClassVar[str] = "server_stopping"
    tries: ClassVar[int | None] = UNTIL_MENDED

    def __init__(self) -> None:
        super().__init__(
            "this server is stopping; send the same call again in a few seconds: what was accepted goes on, and the "
            "same Idempotency-Key, or the same body without one, finds it",
            retry_after_s=RETRY_AFTER_S,
        )


class Shutdown:
    """Whether this process is stopping, and which requests are under way. Everything here belongs to one event loop."""

    def __init__(self, settings: StopSettings | None = None) -> None:
        self._settings = settings or StopSettings()
        self._waiting = set[asyncio.Timeout]()
        self._running = set[asyncio.Timeout]()
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._drained: asyncio.Task[None] | None = None
        self.is_refusing = False
        """Whether new requests are turned away."""

    @property
    def is_begun(self) -> bool:
        """Whether the process has been asked to stop: it is not ready any more."""
        return self._drained is not None

    @property
    def num_waiting(self) -> int:
        """Requests that wait for another plane."""
        return len(self._waiting)

    async def drain(self) -> None:
        """Stop taking requests, and return when none is under way; again and again, from any task."""
        self._drained = self._drained or asyncio.ensure_future(self._drain())
        await asyncio.shield(self._drained)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """A block that waits for another plane. It is left with ServerStopping when the process begins to stop."""
        if self.is_refusing:
            raise ServerStopping
        async with _interruptible(self._waiting):
            yield

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The work on a request, which is left with ServerStopping when its time is over."""
        if self.is_refusing:
            raise ServerStopping
        async with _interruptible(self._running):
            yield

    def began(self) -> None:
        """A request is under way."""
        self._num_requests += 1
        self._idle.clear()

    def ended(self) -> None:
        """One is not any more: it was answered, or cannot be."""
        self._num_requests -= 1
        if not self._num_requests:
            self._idle.set()

    async def _drain(self) -> None:
        settings = self._settings
        log.info("stopping", requests=self._num_requests, waiting=len(self._waiting))
        await asyncio.sleep(settings.delay_s)
        self.is_refusing = True
        _interrupt(self._waiting)
        await self._until_idle(settings.grace_s)
        if self._running:
            log.warning("requests_cut_off", requests=len(self._running))
        _interrupt(self._running)
        await self._until_idle(_LAST_WORDS_S)

    async def _until_idle(self, timeout_s: float) -> None:
        if self._num_requests:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)


@asynccontextmanager
async def _interruptible(blocks: set[asyncio.Timeout]) -> AsyncGenerator[None]:
    """Raises ServerStopping from the block when `_interrupt` is called. It is a timeout whose time nobody knows."""
    block = asyncio.timeout(None)
    try:
        async with block:
            blocks.add(block)
            try:
                yield
            finally:
                blocks.discard(block)
    except TimeoutError:
        if not block.expired():
            raise
        raise ServerStopping from None


def _interrupt(blocks: set[asyncio.Timeout]) -> None:
    now = asyncio.get_running_loop().time()
    while blocks:
        blocks.pop().reschedule(now)
