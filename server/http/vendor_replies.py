"""A vendor's reply as a response of ours: as it came, with the vendor's status and in the vendor's own shape."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import structlog
from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.disconnects import unless_disconnected
from server.http.errors import error_body_of
from server.upstreams.forwarding import VendorReply, VendorStream
from server.upstreams.types import UpstreamCall, UpstreamTarget
from wire.errors import HeadwayError
from wire.process.closing_stream import ClosingStream

log = structlog.get_logger(__name__)

ErrorEvent = Callable[[dict[str, Any]], bytes]
"""A refusal as an event of a stream that has begun."""


async def ask_vendor(
    context: Context, request: Request, target: UpstreamTarget, call: UpstreamCall, error_event: ErrorEvent
) -> Response:
    """Send a call on, and answer with what comes. A client that disconnects disconnects the vendor.

    Raises what `server.upstreams.forwarding.Upstreams.send` raises; what is not JSON is put into an error of the
    protocol's shape.
    """
    begun = list[VendorStream]()

    async def send() -> VendorReply | VendorStream:
        reply = await context.upstreams.send(target, call)
        if isinstance(reply, VendorStream):
            begun.append(reply)
        return reply

    try:
        reply = await unless_disconnected(request, send())
    except BaseException:
        for stream in begun:
            await stream.aclose()
        raise
    if isinstance(reply, VendorStream):
        return _Stream(request, reply, error_event)
    if reply.status >= 400 and not _is_json(reply.content):
        text = reply.content[:_MOST_SHOWN].decode("utf-8", "replace").strip()
        sentence = f"{target.slug!r} answered with status {reply.status}: {text or 'no reason was given'}"
        body = error_body_of(request.scope)(reply.status, "upstream_refused", sentence)
        headers = {name: value for name, value in reply.headers.items() if name != "content-type"}
        return Response(json.dumps(body), reply.status, headers, "application/json")
    return Response(reply.content, reply.status, reply.headers)


_MOST_SHOWN = 300


def data_event(body: dict[str, Any]) -> bytes:
    """An event without a name."""
    return f"data: {json.dumps(body)}\n\n".encode()


def named_event(body: dict[str, Any]) -> bytes:
    """An event of the name `error`."""
    return b"event: error\n" + data_event(body)


def plain_query(request: Request, allowed: Sequence[str]) -> dict[str, str]:
    """The parameters of the address that are the vendor's business."""
    return {name: value for name, value in request.query_params.items() if name in allowed}


def vendor_headers(request: Request, allowed: Sequence[str]) -> dict[str, str]:
    """The headers that are the vendor's business."""
    return {name: request.headers[name] for name in allowed if name in request.headers}


class _Stream(ClosingStream):
    """Disconnects from the vendor as soon as it ends."""

    def __init__(self, request: Request, stream: VendorStream, error_event: ErrorEvent) -> None:
        headers = {**stream.headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(request, stream, error_event), stream, headers=headers)


async def _events(request: Request, stream: VendorStream, error_event: ErrorEvent) -> AsyncGenerator[bytes]:
    shape = error_body_of(request.scope)
    try:
        async for chunk in stream.chunks:
            yield chunk
    except HeadwayError as error:
        yield error_event(shape(error.status, error.code, error.message, error.param))
    except Exception as error:
        log.error("stream_broken", exc_info=error)
        yield error_event(shape(500, "internal", "internal error"))


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict | list)
    except (ValueError, RecursionError):
        return False
