"""The body of an upload of telemetry, read. Imported by the process that reads uploads, which should start soon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import UUID

from store.rollouts import NewSample, NewSpan, read_span
from wire.errors import InvalidRequest, TooLarge

_BEGIN = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"telemetry"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_END = re.compile(r"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*\Z")
_DECODER = json.JSONDecoder()
MAX_SPANS = 100_000
"""In an upload: each becomes a row."""


def read_upload(body: bytes, team_id: UUID, trace_id: UUID) -> tuple[list[NewSpan], list[NewSample]]:
    """Its spans, and the samples that they contain. Raises InvalidRequest unless it is `{"telemetry": [...]}`."""
    try:
        spans = [read_span(span, trace_id) for span in parse_upload(body)]
    except RecursionError:
        raise InvalidRequest("the body is not valid JSON: it is nested too deeply") from None
    return spans, [NewSample(team_id, trace_id, span.turn) for span in spans if span.turn is not None]


def parse_upload(body: bytes) -> list[Any]:
    """The spans of an upload. Raises InvalidRequest unless it is `{"telemetry": [...]}`, TooLarge for too many."""
    try:
        spans = list(islice(_spans(body.decode("utf-8", "surrogatepass")), MAX_SPANS + 1))
    except ValueError:
        spans = _parse_at_once(body)  # which says what is wrong with it, if anything is
    if len(spans) > MAX_SPANS:
        raise TooLarge(f"the upload holds more than {MAX_SPANS} spans; send it in smaller parts")
    return spans


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
