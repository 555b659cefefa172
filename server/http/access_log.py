"""A request id and one log line for each request, with what was bound to it while it ran. Plain ASGI: the framework's
middleware class would buffer streams and hide hang-ups."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ROLLOUT_ID = re.compile(r"[0-9A-Fa-f-]{32,36}")
_SCOPE_KEY = "headway.request_id"
_QUIET = ("/healthz", "/readyz", "/readyz/server", "/metrics")


def request_id(scope: Scope) -> str:
    """The id of this request: the caller's X-Request-Id where it is well-formed, else one of ours."""
    return scope.get(_SCOPE_KEY, "unknown")


class AccessLog:
    """Logs method, path, status and milliseconds, of a websocket when it has closed; never headers or query strings,
    which may hold secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope[_SCOPE_KEY] = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = scope[_SCOPE_KEY]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=scope[_SCOPE_KEY], **_rollout(scope)):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                if scope["path"] not in _QUIET:
                    milliseconds = round((time.perf_counter() - started) * 1e3, 1)
                    log.info("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SCOPE_KEY] = uuid.uuid4().hex
        started, status = time.perf_counter(), 1006

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.close":
                status = message.get("code", 1000)
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=scope[_SCOPE_KEY]):
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                milliseconds = round((time.perf_counter() - started) * 1e3, 1)
                log.info("websocket", path=scope["path"], status=status, ms=milliseconds)


def _rollout(scope: Scope) -> dict[str, str]:
    """The rollout that a sampling call says it belongs to."""
    given = Headers(scope=scope).get("trace-id", "")
    return {"trace": given} if _ROLLOUT_ID.fullmatch(given) else {}
