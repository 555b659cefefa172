"""Each call of the gateway: whose request it is for, how long it took, and its span. Plain ASGI, for it streams."""

from __future__ import annotations

import re
import time

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sampler.metrics import SamplerMetrics
from wire.process.tracing import span

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CALLS = ("render", "tokenize", "generate", "score", "pictures")
_HUNG_UP = 499
_FAILED = 500


class MeasuredCalls:
    """Binds the gateway's request id to log lines; logs calls that failed, the others are counted."""

    def __init__(self, app: ASGIApp, metrics: SamplerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["path"].lstrip("/").partition("/")[0] if scope["type"] == "http" else ""
        if call not in _CALLS:
            await self._app(scope, receive, send)
            return
        started, status, headers = time.perf_counter(), _HUNG_UP, Headers(scope=scope)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = headers.get("x-request-id", "")
        bound = {"request_id": given} if _REQUEST_ID.fullmatch(given) else {}
        with structlog.contextvars.bound_contextvars(**bound):
            try:
                with span(call, bound, kind="server", caller=dict(headers)):
                    await self._app(scope, receive, send_and_note)
            finally:
                self._metrics.called(call, status, time.perf_counter() - started)
                if status >= _FAILED:
                    log.warning("call_failed", call=f"/{call}", status=status)
