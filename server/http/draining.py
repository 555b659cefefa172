"""ASGI middleware that answers the requests which `server.process.shutdown` ends: 503 with Retry-After where nothing
was sent yet, or as their last event the same sentence where a stream of events has begun."""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.http.errors import error_body_of, error_response
from server.process.shutdown import ServerStopping, Shutdown

_ALWAYS_SERVED = ("/healthz", "/readyz", "/readyz/server", "/metrics")
_EVENTS = "text/event-stream"
_SERVICE_RESTART = 1012


class Draining:
    """Answers what `Shutdown` ends. Plain ASGI, around everything that may wait."""

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shutdown = self._shutdown
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in _ALWAYS_SERVED:
            await self._app(scope, receive, send)
            return
        started: Headers | None = None
        is_whole = False

        async def send_and_note(message: Message) -> None:
            nonlocal started, is_whole
            if message["type"] == "http.response.start":
                started = Headers(raw=message["headers"])
                if shutdown.is_begun:  # the client's next request shall go elsewhere
                    MutableHeaders(scope=message)["Connection"] = "close"
            else:
                is_whole = not message.get("more_body", False)
            await send(message)

        shutdown.began()
        try:
            async with shutdown.running():
                await self._app(scope, receive, send_and_note)
        except ServerStopping as stopping:
            if started is None:
                await error_response(Request(scope), stopping)(scope, receive, send_and_note)
            elif not is_whole and started.get("content-type", "").startswith(_EVENTS):
                await send({"type": "http.response.body", "body": _last_event(scope, stopping)})
            # Any other answer that has begun is cut: its client sees that it is not whole.
        finally:
            shutdown.ended()

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = is_over = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_open, is_over
            is_open = is_open or message["type"] == "websocket.accept"
            is_over = is_over or message["type"] in ("websocket.close", "websocket.http.response.start")
            await send(message)

        self._shutdown.began()
        try:
            async with self._shutdown.running():
                await self._app(scope, receive, send_and_note)
        except ServerStopping as stopping:
            if is_open and not is_over:
                await send({"type": "websocket.close", "code": _SERVICE_RESTART, "reason": "the server is stopping"})
            elif not is_over:
                await error_response(WebSocket(scope, receive, send), stopping)(scope, receive, send)
        finally:
            self._shutdown.ended()


def _last_event(scope: Scope, stopping: ServerStopping) -> bytes:
    error = error_body_of(scope)(stopping.status, stopping.code, stopping.message)
    return f"data: {json.dumps(error)}\n\n".encode()
