"""What a sampler takes at once, of whoever has its token: bodies that could fit its context, so many requests, so many
bytes of them; and for how long it waits for the next piece of a body, or for a reader to take the next of an answer.

Plain ASGI, behind the token check. The body is read here, whole, and within these bounds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampler.admission.prompt_limits import PromptLimits
from sampler.refusals import error_response
from wire.errors import FINAL, UNTIL_MENDED, ContextLengthExceeded, HeadwayError, InvalidRequest, TooLarge
from wire.pictures import MIB, PictureLimits

log = structlog.get_logger(__name__)

_SLACK_BYTES = 8 * 1024**2
"""For tools, schemas, and answers of the history that a template leaves out."""
_ID_BYTES = 12
_MAX_PICTURE = 3 * PictureLimits().pixels_each + MIB
"""Of noise, which a PNG does not make smaller."""
_RETRY_AFTER_S = 1


class TooBusy(HeadwayError):
    """As much is under way as a sampler takes; nothing was computed."""

    status: ClassVar[int] = 429
    code: ClassVar[str] = "too_busy"
    tries: ClassVar[int | None] = UNTIL_MENDED


class TooSlow(HeadwayError):
    """The rest of a body did not come in time."""

    status: ClassVar[int] = 408
    code: ClassVar[str] = "too_slow"
    tries: ClassVar[int | None] = FINAL


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the requests under way in a sampler, those included that wait for their turn."""

    max_requests: int = 8192
    max_bytes: int = 512 * 1024**2
    stalled_s: float = 60.0


class Admission:
    """Middleware. A reader that takes nothing for `stalled_s` is left, which ends its sequence."""

    def __init__(self, app: ASGIApp, limits: PromptLimits, bounds: Bounds) -> None:
        self._app = app
        self._context_length = limits.context_length
        self._max_body = _SLACK_BYTES + 2 * limits.max_characters + _ID_BYTES * limits.context_length
        self._bounds = bounds
        self._num_requests = 0
        self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        is_picture = scope["path"].startswith("/pictures/")
        num_bytes = _content_length(scope, _MAX_PICTURE if is_picture else self._max_body)
        try:
            self._check(num_bytes, is_picture)
        except HeadwayError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        self._num_requests += 1
        self._num_bytes += num_bytes
        try:
            await self._pass_on(scope, receive, send, num_bytes)
        finally:
            self._num_requests -= 1
            self._num_bytes -= num_bytes

    def _check(self, num_bytes: int, is_picture: bool) -> None:
        if is_picture and num_bytes > _MAX_PICTURE:
            raise TooLarge(f"a picture has at most {_MAX_PICTURE} bytes, and this one {num_bytes}")
        if not is_picture and num_bytes > self._max_body:
            raise ContextLengthExceeded.of(
                self._context_length, f"the request has {num_bytes} bytes, more than any that fits"
            )
        if self._num_requests >= self._bounds.max_requests or self._num_bytes + num_bytes > self._bounds.max_bytes:
            raise TooBusy(
                f"this sampler has {self._num_requests} requests of {self._num_bytes} bytes under way; try again",
                retry_after_s=_RETRY_AFTER_S,
            )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, num_bytes: int) -> None:
        try:
            body = await self._read(receive, num_bytes)
        except HeadwayError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        if body is None:
            return  # the client is gone
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        serving, is_stalled = asyncio.current_task(), False

        async def send_in_time(message: Message) -> None:
            nonlocal is_stalled
            try:
                async with asyncio.timeout(self._bounds.stalled_s):
                    await send(message)
            except TimeoutError:
                log.warning("reader_stalled", for_s=self._bounds.stalled_s)
                if serving is not None and not is_stalled:
                    is_stalled = True
                    serving.cancel()  # the whole of it: a response has a task that waits for the client to hang up
                raise asyncio.CancelledError from None

        try:
            await self._app(scope, replay, send_in_time)
        except asyncio.CancelledError:
            if not is_stalled or serving is None or serving.uncancel() > 0:
                raise

    async def _read(self, receive: Receive, num_bytes: int) -> bytes | None:
        pieces, rest = list[bytes](), num_bytes
        while True:
            try:
                async with asyncio.timeout(self._bounds.stalled_s):
                    message = await receive()
            except TimeoutError:
                raise TooSlow("the rest of the body did not come; send it again") from None
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            rest -= len(pieces[-1])
            if rest < 0:
                raise InvalidRequest("the body is longer than any that this sampler takes")
            if not message.get("more_body", False):
                return b"".join(pieces)


def _content_length(scope: Scope, unknown: int) -> int:
    given = Headers(scope=scope).get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else unknown
