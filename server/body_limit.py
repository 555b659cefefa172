"""Refuses request bodies over a size while they stream in. Training batches and imports have limits of their own."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge
from server.settings import Limits

_LARGE = ("/completions", "/telemetry-upload", "/v2/tasks/upload")
_IMPORT = "/v2/traces/import"


class BodyLimit:
    """Counts what is read from the client, except under the routes that count for themselves."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "/train/" in scope["path"] or scope["path"] == _IMPORT:
            await self._app(scope, receive, send)
            return
        max_bytes = self._limits.body_bytes if scope["path"].endswith(_LARGE) else self._limits.small_body_bytes
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced) > max_bytes
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if too_large or received > max_bytes:
                raise BodyTooLarge(max_bytes)
            return message

        await self._app(scope, counted_receive, send)
