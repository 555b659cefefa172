"""Uploads of telemetry: read off the event loop, recorded before they are answered."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from fastapi import Request

from server.context import Context
from server.off_loop import off_loop
from store.rollouts import NewSample, NewSpan, TraceRecord, read_span, record
from wire.errors import InvalidRequest, UnsupportedEncoding

_TOO_DEEP = "the body is not valid JSON: it is nested too deeply"


async def take_upload(context: Context, team_id: UUID, trace_id: UUID, request: Request) -> int:
    """Record a batch of spans; how many there were, odd ones included.

    Raises InvalidRequest unless the body is `{"telemetry": [...]}`, UnsupportedEncoding for a compressed one.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(f"uploads compressed with {encoding[:32]!r} are not taken; send plain JSON")
    body = await request.body()
    spans = await off_loop(len(body), read_upload, body, trace_id)
    if spans:
        samples = [NewSample(team_id, trace_id, span.turn) for span in spans if span.turn is not None]
        await record(context.database, context.blobs, [TraceRecord(team_id, trace_id, samples, spans)])
    return len(spans)


def read_upload(body: bytes, trace_id: UUID) -> list[NewSpan]:
    """The spans of an upload. Slow: bodies are megabytes. Raises InvalidRequest unless it holds a list of spans."""
    try:
        upload: Any = json.loads(body)
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    spans = upload.get("telemetry") if isinstance(upload, dict) else None
    if not isinstance(spans, list):
        raise InvalidRequest("telemetry must be a list of spans")
    try:
        return [read_span(span, trace_id) for span in spans]
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None
