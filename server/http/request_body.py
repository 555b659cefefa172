"""The body of a request: sealed until the route has admitted whoever sent it, and bounded from then on.

`SealedBodies` is around the whole app, so no route, whatever its class, gets a byte of a body that nobody has opened.
`server.http.routing.KeyedRoute` opens it when the key is known to be live and to have the route's scope. How large it
may be is declared beside the route (`dependencies=[Depends(UPLOAD)]`); without a line it is
`Limits.small_body_bytes`. What is larger than that waits for its share of `server.http.body_memory`, until the request
ends or its bytes are dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.body_memory import BodyMemory
from server.process.settings import Limits
from server.values.whole_numbers import whole_number
from wire.errors import UnsupportedEncoding

_SCOPE_KEY = "headway.request_body"

MoreRoom = Callable[[Request], Awaitable[int]]


@dataclass(frozen=True)
class BodyBound:
    """The most bytes that a route takes. `more`: asked once for a body that passes them; how many it may be after all.
    `encodings`: ways in which the body may be compressed, which its reader undoes.

    A dependency that does nothing: the route finds it among its dependencies.
    """

    max_bytes: Callable[[Limits], int]
    more: MoreRoom | None = None
    encodings: frozenset[str] = frozenset()

    async def __call__(self) -> None:
        """See the class."""


SMALL = BodyBound(lambda limits: limits.small_body_bytes)
OPEN_TO_ANYBODY = BodyBound(lambda limits: limits.open_body_bytes)
UPLOAD = BodyBound(lambda limits: limits.body_bytes)
COUNTED_BY_ITS_READER = BodyBound(lambda limits: sys.maxsize)
"""For bodies that are never in memory as a whole: what reads them has limits of its own."""


class BodyTooLarge(HTTPException):
    """A body over the limit, found while it is read. FastAPI lets only its own kind of exception through there."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the request is larger than {limit_bytes} bytes, the most this server takes")


class SealedBodies:
    """ASGI middleware: `receive` raises until the body is opened."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._memory = BodyMemory(limits.bodies_in_memory_bytes, limits.body_wait_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = scope[_SCOPE_KEY] = RequestBody(scope, receive, self._limits, self._memory)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.was_read()


class RequestBody:
    """Of one request."""

    __slots__ = ("_held", "_limits", "_max_bytes", "_memory", "_more", "_num_bytes", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, memory: BodyMemory) -> None:
        self._scope = scope
        self._receive = receive
        self._limits = limits
        self._memory = memory
        self._held: int | None = None
        self._max_bytes: int | None = None
        self._more: Callable[[], Awaitable[int]] | None = None
        self._num_bytes = 0

    def open(self, bound: BodyBound, request: Request) -> None:
        """Let it be read, up to the bound. For whoever has just authenticated the request.

        Raises UnsupportedEncoding for a body that is compressed in a way which the bound does not name: nothing here
        unpacks it.
        """
        encoding = content_encoding(request)
        if encoding != "identity" and encoding not in bound.encodings:
            raise UnsupportedEncoding(f"bodies compressed with {encoding[:32]!r} are not taken; send plain JSON")
        more = bound.more
        self._max_bytes = bound.max_bytes(self._limits)
        self._more = None if more is None else lambda: more(request)

    async def receive(self) -> Message:
        """The next message of the client.

        Raises BodyTooLarge before anything is kept of what passes the bound, BodiesInTheWay where there is no memory.
        """
        if self._max_bytes is None:
            raise RuntimeError("the body of a request was to be read before its key was checked")
        if not self._num_bytes:
            await self._check(self._announced)
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        await self._check(self._num_bytes)
        return message

    async def will_hold(self, num_bytes: int) -> None:
        """What was read becomes so many bytes in memory: waits for their share. Raises BodiesInTheWay."""
        self.was_read()
        if num_bytes > self._limits.small_body_bytes:
            self._held = await self._memory.take(num_bytes)

    def was_read(self) -> None:
        """The bytes are dropped, or about to be; what was made of them is as large as what they say allows."""
        if self._held:
            self._memory.give_back(self._held)
        self._held = 0

    @property
    def _announced(self) -> int:
        """The length that the client announced; 0 where it did not."""
        return whole_number(Headers(scope=self._scope).get("content-length", "")) or 0

    async def _check(self, num_bytes: int) -> None:
        assert self._max_bytes is not None
        if num_bytes > self._max_bytes and self._more is not None:
            self._max_bytes, self._more = max(self._max_bytes, await self._more()), None
        if num_bytes > self._max_bytes:
            raise BodyTooLarge(self._max_bytes)
        if self._held is None and num_bytes > self._limits.small_body_bytes and self._max_bytes < sys.maxsize:
            self._held = await self._memory.take(max(num_bytes, self._announced or self._max_bytes))


def content_encoding(request: Request) -> str:
    """How the body is compressed; `identity`: not at all."""
    return request.headers.get("content-encoding", "").strip().lower() or "identity"


def open_body(request: Request, bound: BodyBound) -> None:
    """Let the body be read. For whoever has just authenticated the request."""
    body: RequestBody = request.scope[_SCOPE_KEY]
    body.open(bound, request)


def opened_to_anybody(app: ASGIApp) -> ASGIApp:
    """An app that is mounted beside the routes and asks nobody for a key, such as one for static files: its responses
    listen on `receive` for clients that are gone."""

    async def opened(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            open_body(Request(scope), OPEN_TO_ANYBODY)
        await app(scope, receive, send)

    return opened


async def body_will_hold(request: Request, num_bytes: int) -> None:
    """As `RequestBody.will_hold`, for a body that is unpacked."""
    body: RequestBody = request.scope[_SCOPE_KEY]
    await body.will_hold(num_bytes)


def forget_body(request: Request) -> None:
    """Drop the bytes of a body that was parsed, which would stay until the request ends. Who asks for them later gets
    none."""
    request._body = b""  # pyright: ignore[reportPrivateUsage]


def body_was_read(request: Request) -> None:
    """Its bytes are parsed, and not needed while the request goes on."""
    body: RequestBody = request.scope[_SCOPE_KEY]
    body.was_read()
