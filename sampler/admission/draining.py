"""Ends a sampler without failing requests: it leaves the rotation, finishes requests under way, then stops.

Requests that were routed a moment before still come, and several answers to one chat are several calls. So
calls are taken to the end: until none has been under way for a while, or until the limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

log = structlog.get_logger(__name__)

_QUIET_S = 0.7
_POLL_S = 0.05


class InFlight:
    """ASGI middleware that counts the requests under way; health checks do not count."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._num = 0
        self._quiet_since = time.monotonic()

    @property
    def num(self) -> int:
        """How many are under way."""
        return self._num

    @property
    def quiet_s(self) -> float:
        """For how long there has been none."""
        return 0.0 if self._num else time.monotonic() - self._quiet_since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        self._num += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num -= 1
            self._quiet_since = time.monotonic()


class DrainingServer(uvicorn.Server):
    """Ends as this module says on the first SIGTERM or SIGINT, and at once on the second.

    `leave` takes the sampler out of the rotation; it is called in a thread, once.
    """

    def __init__(self, config: uvicorn.Config, in_flight: InFlight, leave: Callable[[], None], drain_s: float) -> None:
        super().__init__(config)
        self._in_flight = in_flight
        self._leave = leave
        self._drain_s = drain_s
        self._drain = threading.Thread(target=self._end, name="drain", daemon=True)
        self._told = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Uvicorn's hook. Its own would raise the signal again afterwards, which kills before anything is put away."""
        self._told += 1
        if self._told == 1:
            self._drain.start()
        else:
            self.should_exit = True

    def _end(self) -> None:
        started = time.monotonic()
        self._leave()
        deadline, left = started + self._drain_s, time.monotonic()
        while time.monotonic() < deadline and min(self._in_flight.quiet_s, time.monotonic() - left) < _QUIET_S:
            time.sleep(_POLL_S)
        log.info("sampler_drained", cut_short=self._in_flight.num, after_s=round(time.monotonic() - started, 1))
        self.should_exit = True
