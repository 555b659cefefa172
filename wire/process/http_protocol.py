"""A server's side of an HTTP/1.1 connection, bounded: how much a client may send before it is understood, and for how
long it may keep the server waiting. For uvicorn's `http=`, in every process of ours that listens.

Time is measured by progress: a batch of gigabytes over a slow link may take as long as it takes, as long as bytes come
at `least_bytes_per_s` whenever the server is willing to read, and go at that rate whenever it has something to write.
Heads alone, which are short, have a deadline as a whole.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any, ClassVar

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """Defaults are in the range of nginx's, Apache's (mod_reqtimeout) and h11's.

    head_bytes: of a request line with its headers; also of whatever else comes without being part of a body.
    pipelined: requests that were sent before the one ahead of them was answered.
    stall_s: over so long a time the rate is looked at. linger_s: for so long the rest of a body is read and dropped
    whose request was answered already, so that the client gets to read the answer.
    """

    head_bytes: int = 64 * 1024
    num_headers: int = 200
    pipelined: int = 16
    head_s: float = 30.0
    idle_s: float = 90.0
    stall_s: float = 30.0
    linger_s: float = 30.0
    least_bytes_per_s: float = 500.0
    check_every_s: float = 5.0
    readers_may_stall: bool = False
    """Whether a client may leave an answer unread: a gateway does, whose own clients read slowly."""


def _send_at_once(transport: asyncio.Transport) -> None:
    """An answer goes in two writes, and Nagle's algorithm holds the second back until the first is acknowledged, which
    a client that waits for the rest does 40 ms later. uvloop says so to the kernel by itself; asyncio does where the
    listening socket names its protocol, which `socket.create_server` does not."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, which has none of these bounds, with one timer a connection."""

    bounds: ClassVar[ConnectionBounds] = ConnectionBounds()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_received = 0
        self._num_unproductive = 0
        self._num_head_bytes = 0
        self._head_began_at: float | None = None
        self._refusal: tuple[int, str, str] | None = None
        self._is_refused = False
        self._reading = _Progress()
        self._writing = _Progress()
        self._idle = _Progress()
        self._lingering_since: float | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        _send_at_once(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._num_received += len(data)
        self._num_unproductive += len(data)
        super().data_received(data)
        if self._num_unproductive > self.bounds.head_bytes and not self._is_refused:
            self._refuse(*self._head_too_large())

    def resume_writing(self) -> None:
        self._writing = _Progress()
        super().resume_writing()

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_head_bytes = 0
        self._head_began_at = self.loop.time()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._head_began_at, self._lingering_since, self._num_unproductive = None, None, 0
        if len(self.pipeline) >= self.bounds.pipelined:
            self._refusal = 400, "invalid_request", "too many requests were sent ahead of their answers"
            raise HttpParserError("refused")  # ends the parsing of what this client sends
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_unproductive = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_unproductive = 0
        parser: Any = self.parser
        if not (parser.should_upgrade() and self._should_upgrade()):
            self.cycle.more_body = False  # uvicorn does not note it where the answer was there first
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """uvicorn's hook: from now on the connection is a websocket's, which has pings of its own."""
        if self._timer is not None:
            self._timer.cancel()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's hook for what the parser does not take."""
        self._refuse(*(self._refusal or (400, "invalid_request", "this is not HTTP/1.1")))

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > self.bounds.head_bytes or len(self.headers) > self.bounds.num_headers:
            self._refusal = self._head_too_large()
            raise HttpParserError("refused")  # ends the parsing of what this client sends

    def _head_too_large(self) -> tuple[int, str, str]:
        most = f"{self.bounds.head_bytes} bytes in {self.bounds.num_headers} headers"
        return 431, "too_large", f"the request's line and headers are larger than {most}, the most this server takes"

    def _refuse(self, status: int, code: str, sentence: str) -> None:
        """Answer, unless an answer is under way, and end the connection. Nothing of what was sent is kept."""
        self._is_refused, is_next = True, self._is_next_to_be_answered()
        self.headers = []
        self.pipeline.clear()
        if is_next:
            body = json.dumps({"detail": sentence, "code": code}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        cycle = self._last_cycle()
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def _is_next_to_be_answered(self) -> bool:
        """Whether the client would take what is written now for the answer to its last request."""
        cycle = self._last_cycle()
        is_open = cycle is None or cycle.response_complete or not cycle.response_started
        return is_open and not self.pipeline

    def _last_cycle(self) -> RequestResponseCycle | None:
        """Of the request that came last; None before the first one."""
        return self.cycle

    # Time.

    def _arm(self) -> None:
        self._due = self.loop.time() + self.bounds.check_every_s
        self._timer = self.loop.call_later(self.bounds.check_every_s, self._check)

    def _check(self) -> None:
        now = self.loop.time()
        if now - self._due > self.bounds.check_every_s:  # this process was busy: what came meanwhile is not read yet
            self._reading, self._writing, self._idle = _Progress(), _Progress(), _Progress()
        elif self._leaves_unread(now):
            self.transport.abort()
        elif not self.transport.is_closing() and not self._is_refused:
            self._check_reading(now)
        self._arm()

    def _leaves_unread(self, now: float) -> bool:
        """Whether what was written is not taken: looked at while writing pauses, or the connection ends, for then the
        rest only shrinks."""
        left = self.transport.get_write_buffer_size()
        if not left or not (self.flow.write_paused or self.transport.is_closing()) or self.bounds.readers_may_stall:
            self._writing = _Progress()
            return False
        return self._writing.is_slow(now, -left, self.bounds)

    def _check_reading(self, now: float) -> None:
        bounds, cycle = self.bounds, self._last_cycle()
        if self._head_began_at is not None:
            if now - self._head_began_at > bounds.head_s:
                self._refuse(408, "timed_out", f"the request's headers took longer than {bounds.head_s:.0f} s")
        elif cycle is None or (cycle.response_complete and not cycle.more_body):
            # Clients keep a connection for their next request, but open none without having one.
            if self._idle.is_silent(now, self._num_received, bounds.head_s if cycle is None else bounds.idle_s):
                self.transport.close()
        elif cycle.response_complete:
            self._lingering_since = self._lingering_since or now
            if now - self._lingering_since > bounds.linger_s:
                self.transport.close()
        elif not cycle.more_body or self.flow.read_paused or cycle.waiting_for_100_continue:
            self._reading = _Progress()
        elif self._reading.is_slow(now, self._num_received, bounds):
            rate = f"{bounds.least_bytes_per_s:.0f} bytes a second"
            self._refuse(408, "timed_out", f"the rest of the body did not come: it came slower than {rate}")


class _Progress:
    """How far something had come when a window of time began."""

    __slots__ = ("_at", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._at = 0

    def is_slow(self, now: float, at: int, bounds: ConnectionBounds) -> bool:
        """Whether a window went by in which less came than the least rate; it begins anew when enough has come."""
        if self._since is None or at - self._at >= bounds.least_bytes_per_s * bounds.stall_s:
            self._since, self._at = now, at
        return now - self._since > bounds.stall_s

    def is_silent(self, now: float, at: int, for_s: float) -> bool:
        """Whether nothing at all has come for so long."""
        if self._since is None or at != self._at:
            self._since, self._at = now, at
        return now - self._since > for_s
