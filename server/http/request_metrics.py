"""Counts and times every request, and begins its span. Plain ASGI: see `server.http.access_log`."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics.instruments import ServerMetrics
from wire.process.tracing import span

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HUNG_UP = 499


class MeasuredRequests:
    """Routes are named by their templates: what clients put into a path is no label."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), _HUNG_UP

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.request_began()
        method = scope["method"] if scope["method"] in _METHODS else "other"
        try:
            with span(method, kind="server", caller=_headers(scope)) as request_span:
                try:
                    await self._app(scope, receive, send_and_note)
                finally:
                    request_span.rename(f"{method} {route_of(scope)}")
                    request_span.note(status=status)
        finally:
            self._metrics.request_ended(method, route_of(scope), status, time.perf_counter() - started)


def route_of(scope: Scope) -> str:
    """The template of the route that was taken; `none` where there is none, or the request was turned away before."""
    route: Any = scope.get("route")
    return getattr(route, "path", None) or "none"


def _headers(scope: Scope) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in (b"traceparent", b"tracestate")
    }
