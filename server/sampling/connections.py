"""HTTP/1.1 to samplers with as little processor time as it takes: POST, keep-alive, replies as they come.

Thousands of calls run at once. httpx spends 0.6 to 1 ms of processor time on a call,
this client 0.03. It leaves out what samplers do not do: redirects, cookies, compression, replies without a length.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from wire.process.origins import bracketed
from wire.process.tls import PlaneTrust

_IDLE_S = 4.0
"""An idle connection is used again for so long: uvicorn ends it after 5 s."""
_MAX_IDLE = 1024
_GET_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds, seconds, times: a machine that vanishes and comes back under its address does not know the connection."""
_PAUSE_BYTES = 256 * 1024
"""So much of a reply may wait for its reader before the sampler is held back."""


class ConnectionFailed(Exception):
    """No connection, or it ended or timed out before the reply was complete."""


class NotReached(ConnectionFailed):
    """Nobody accepted a connection: the request was not seen."""


class _Origin(NamedTuple):
    host: str
    port: int
    is_tls: bool


class Exchange:
    """A request under way on a connection: `status`, then the body."""

    def __init__(self, connection: _Connection, read_s: float) -> None:
        self._connection = connection
        self._read_s = read_s

    @property
    def status(self) -> int:
        """The reply's status."""
        return self._connection.status

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body as it comes."""
        while (chunk := await self._connection.next_chunk(self._read_s)) is not None:
            yield chunk

    async def read(self) -> bytes:
        """The rest of the body."""
        body = list[bytes]()
        while (chunk := await self._connection.next_chunk(self._read_s)) is not None:
            body.append(chunk)
        return body[0] if len(body) == 1 else b"".join(body)


class Connections:
    """The connections of a process. Everything here belongs to one event loop."""

    def __init__(self, *, connect_s: float, read_s: float, trust: PlaneTrust | None = None) -> None:
        self._connect_s = connect_s
        self._read_s = read_s
        self._idle: dict[_Origin, list[tuple[float, _Connection]]] = {}
        self._busy: dict[_Origin, set[_Connection]] = {}
        self._trust = trust or PlaneTrust()

    @asynccontextmanager
    async def post(self, url: str, headers: bytes, body: bytes) -> AsyncGenerator[Exchange]:
        """Send a request; the block begins when the reply's status is there. `headers`: lines, each
        with its CRLF.

        A block that ends before the reply does ends the connection, which stops the sampler. Raises ConnectionFailed,
        inside the block as well.
        """
        origin, target = _parse(url)
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n%b\r\n"
        request = head % (target, f"{bracketed(origin.host)}:{origin.port}".encode(), len(body), headers) + body
        connection = await self._open(origin, request)
        try:
            yield Exchange(connection, self._read_s)
        finally:
            self._give_back(origin, connection)

    async def is_answering(self, url: str) -> bool:
        """Whether /healthz there says 200. (A process that was stopped still accepts connections.)"""
        origin = _parse(url)[0]
        try:
            connection = await self._connect(origin)
        except ConnectionFailed:
            return False
        try:
            connection.send(_GET_HEALTH % f"{bracketed(origin.host)}:{origin.port}".encode())
            await connection.wait_for_status(self._connect_s)
        except ConnectionFailed:
            return False
        finally:
            connection.close()
        return connection.status == 200

    def busy(self) -> list[str]:
        """Origins (`http://host:port`) on which a request is under way."""
        return [_as_url(origin) for origin, connections in self._busy.items() if connections]

    def abandon(self, url: str) -> None:
        """End every request that is under way at this URL's origin: ConnectionFailed for those who wait."""
        for connection in list(self._busy.get(_parse(url)[0], ())):
            connection.abandon()

    def close(self) -> None:
        """Close what is idle."""
        for _, connection in (entry for entries in self._idle.values() for entry in entries):
            connection.close()
        self._idle.clear()

    async def _open(self, origin: _Origin, request: bytes) -> _Connection:
        """A connection on which the request was sent and the status has come. One that was idle may be found ended by
        the other side, which then has not seen the request."""
        connection = self._pop_idle(origin)
        if connection is not None:
            try:
                return await self._sent(origin, connection, request)
            except ConnectionFailed:
                if connection.has_heard or connection.is_abandoned:
                    raise
        return await self._sent(origin, await self._connect(origin), request)

    async def _sent(self, origin: _Origin, connection: _Connection, request: bytes) -> _Connection:
        self._busy.setdefault(origin, set()).add(connection)
        connection.send(request)
        try:
            await connection.wait_for_status(self._read_s)
        except BaseException:
            self._busy[origin].discard(connection)
            connection.close()
            raise
        return connection

    async def _connect(self, origin: _Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        tls = self._trust.connection_options(origin.host, is_tls=origin.is_tls)
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(_Connection, origin.host, origin.port, **tls)
        except (OSError, TimeoutError) as error:
            self._trust.note_failure(origin.host, error)
            raise NotReached(f"no connection to {origin.host}:{origin.port}: {error}") from error
        return connection

    def _pop_idle(self, origin: _Origin) -> _Connection | None:
        entries = self._idle.get(origin)
        while entries:
            since, connection = entries.pop()
            if connection.is_usable and time.monotonic() - since < _IDLE_S:
                return connection
            connection.close()
        return None

    def _give_back(self, origin: _Origin, connection: _Connection) -> None:
        self._busy[origin].discard(connection)
        entries = self._idle.setdefault(origin, [])
        if connection.is_usable and len(entries) < _MAX_IDLE:
            entries.append((time.monotonic(), connection))
        else:
            connection.close()


class _Connection(asyncio.Protocol):
    """One socket, one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._chunks: deque[bytes] = deque()
        self._num_waiting_bytes = 0
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: str | None = None
        self._is_complete = True
        self.status = 0
        self.has_heard = False
        self.is_abandoned = False

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent: the last one is answered, and the connection is open."""
        return self._is_complete and self._error is None and not self._chunks

    def send(self, request: bytes) -> None:
        """Begin a request."""
        assert self._transport is not None
        self.status, self.has_heard, self._is_complete = 0, False, False
        self._transport.write(request)

    def close(self) -> None:
        """End the connection, whatever is under way on it."""
        self._error = self._error or "closed"
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """End it for whoever waits, who learns that the other side does not answer any more."""
        self.is_abandoned = True
        self._fail("the sampler fell silent")
        self.close()

    async def wait_for_status(self, timeout_s: float) -> None:
        """Until the reply's headers are there. Raises ConnectionFailed."""
        while not self.status:
            await self._wait(timeout_s)

    async def next_chunk(self, timeout_s: float) -> bytes | None:
        """The next piece of the body; None at its end. Raises ConnectionFailed."""
        while not self._chunks:
            if self._is_complete:
                return None
            await self._wait(timeout_s)
        chunk = self._chunks.popleft()
        self._num_waiting_bytes -= len(chunk)
        if self._is_paused and not self._chunks:
            self._is_paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return chunk

    async def _wait(self, timeout_s: float) -> None:
        if self._error is not None:
            raise ConnectionFailed(self._error)
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._fail, f"silent for {timeout_s:.0f} s")
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: str) -> None:
        self._error = self._error or error
        self._wake()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "pause_reading")
        self._transport = transport  # pyright: ignore[reportAttributeAccessIssue] - uvloop has a class of its own
        _notice_death(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self.has_heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self.close()
        if self._num_waiting_bytes > _PAUSE_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the connection was closed")

    # What the parser calls.

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._num_waiting_bytes += len(body)
        self._wake()

    def on_message_complete(self) -> None:
        self._is_complete = True
        if not self._parser.should_keep_alive():
            self._error = self._error or "the sampler wants no other request on this connection"
        self._wake()


@lru_cache(maxsize=1024)
def _parse(url: str) -> tuple[_Origin, bytes]:
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Origin(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls), target.encode()


def _as_url(origin: _Origin) -> str:
    return f"{'https' if origin.is_tls else 'http'}://{bracketed(origin.host)}:{origin.port}"


def origin_of(url: str) -> str:
    """`http://host:port`, as `Connections.busy` has it."""
    return _as_url(_parse(url)[0])


def _notice_death(connected: socket.socket | None) -> None:
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
