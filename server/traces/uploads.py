"""Uploads of telemetry: read off the event loop, one at a time and span by span, recorded before they are answered.

Parsing JSON holds the interpreter, so a thread alone does not keep the event loop free: a batch of 4 MiB parsed at
once stops it for 30 ms, and eight of them for a quarter of a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from fastapi import Request

from server.context import Context
from server.off_loop import off_loop
from server.storing import stored_or_refused
from store.rollouts import NewSample, NewSpan, TraceRecord, read_span, record
from wire.errors import InvalidRequest, UnsupportedEncoding

_BEGIN = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"telemetry"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_END = re.compile(r"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*\Z")
_DECODER = json.JSONDecoder()


async def take_upload(context: Context, team_id: UUID, trace_id: UUID, request: Request) -> int:
    """Record a batch of spans; how many there were, odd ones included.

    Raises InvalidRequest unless the body is `{"telemetry": [...]}`, UnsupportedEncoding for a compressed one.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(f"uploads compressed with {encoding[:32]!r} are not taken; send plain JSON")
    body = await request.body()
    async with context.one_upload:
        spans, samples = await off_loop(len(body), _read, body, team_id, trace_id)
    if spans:
        with stored_or_refused("upload"):
            await record(context.database, context.blobs, [TraceRecord(team_id, trace_id, samples, spans)])
    return len(spans)


def _read(body: bytes, team_id: UUID, trace_id: UUID) -> tuple[list[NewSpan], list[NewSample]]:
    try:
        spans = [read_span(span, trace_id) for span in parse_upload(body)]
    except RecursionError:
        raise InvalidRequest("the body is not valid JSON: it is nested too deeply") from None
    return spans, [NewSample(team_id, trace_id, span.turn) for span in spans if span.turn is not None]


def parse_upload(body: bytes) -> list[Any]:
    """The spans of an upload. Raises InvalidRequest unless it is `{"telemetry": [...]}`."""
    try:
        return list(_spans(body.decode("utf-8", "surrogatepass")))
    except ValueError:
        return _parse_at_once(body)  # which says what is wrong with it, if anything is


def _spans(text: str) -> Iterator[Any]:
    """One span after the other. Raises ValueError where the text is not written as the SDK writes it."""
    begin = _BEGIN.match(text)
    if begin is None:
        raise ValueError("another form")
    at = begin.end()
    if text[at : at + 1] != "]":
        while True:
            span, at = _DECODER.raw_decode(text, at)
            yield span
            comma = _COMMA.match(text, at)
            if comma is None:
                break
            at = comma.end()
    if _END.match(text, at) is None:
        raise ValueError("another form")


def _parse_at_once(body: bytes) -> list[Any]:
    try:
        upload: Any = json.loads(body)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    spans = upload.get("telemetry") if isinstance(upload, dict) else None
    if not isinstance(spans, list):
        raise InvalidRequest("telemetry must be a list of spans")
    return spans
