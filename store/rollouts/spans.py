"""A span of telemetry, read: what it is, whether it counts, and the tokens it brings.

Nothing is refused here. A span that is not what it should be is kept as it came, with a flag that says why it does not
count; its trace carries the same flag.

A prompt with pictures comes as chunks beside its flat ids. The chunks say which ids stand for which picture; how large
a picture is, and whether the team has it, is for `with_pictures` to say, which has the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import UUID

import numpy as np

from store.rollouts.digests import sample_digest
from store.rollouts.payloads import pack_payload, repack_without_turn
from wire.errors import InvalidRequest
from wire.extension import Int32Array, Media, TokenSequence
from wire.pictures import Picture
from wire.prompt_chunks import Chunk, ImageChunk, PointerChunk, TextChunk, read_chunks
from wire.trajectories import Turn

STEP_SCHEMA = "hud.step.v1"

NOT_AN_OBJECT = "not_an_object"
NO_SPAN_ID = "no_span_id"
OTHER_TRACE = "other_trace"
MALFORMED_STEP = "malformed_step"
MALFORMED_SAMPLE = "malformed_sample"
PROMPT_CHUNKS = "prompt_chunks"
"""Chunks that do not say which tokens a prompt had: pictures as bytes, or pointers without ids beside them."""
UNKNOWN_PICTURE = "unknown_picture"
"""The team has not sent it, or whatever named it was deleted."""
SPAN_ID_REUSED = "span_id_reused"

_MAX_TEXT = 200
_MOST_TOKENS = 2**24
_MOST = 3.4e38


@dataclass(frozen=True, slots=True)
class NewSpan:
    """A span as columns of its row, and what it says of its trace. `turn`: the sample of an agent's step; its pictures
    have no sizes before `with_pictures`. `contents`: bytes that the span had in base64, by the SHA-256 that its payload
    has in their place."""

    span_id: str
    digest: bytes
    num_bytes: int
    payload: bytes
    schema_tag: str | None = None
    name: str | None = None
    step_id: int | None = None
    source: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    flag: str | None = None
    turn: Turn | None = None
    sample_digest: bytes | None = None
    evaluated_reward: float | None = None
    contents: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def pictures(self) -> set[str]:
        """Names of those in its turn's prompt."""
        return {item.name for item in self.turn.media} if self.turn else set()


class _Odd(Exception):
    """Why a span does not count."""


def read_span(span: Any, trace_id: UUID) -> NewSpan:
    """A span of an upload for this trace. Any JSON value will do."""
    text = json.dumps(span, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    if not isinstance(span, dict):
        return _kept(span, text, digest, NOT_AN_OBJECT)
    attributes = span["attributes"] if isinstance(span.get("attributes"), dict) else {}
    values: dict[str, Any] = {
        "span_id": _short(span.get("span_id")) or "",
        "schema_tag": _short(attributes.get("hud.schema")),
        "name": _short(span.get("name")),
        "started_at": _time(span.get("start_time")),
        "ended_at": _time(span.get("end_time")),
    }
    try:
        _check_identity(span, attributes, trace_id)
        if values["schema_tag"] == STEP_SCHEMA:
            values.update(_read_step(attributes.get("hud.payload")))
    except _Odd as reason:
        values["flag"] = str(reason)
    turn: Turn | None = values.get("turn")
    if turn is not None:
        values["sample_digest"] = sample_digest(turn)
    payload, contents = pack_payload(span, text, turn)
    return NewSpan(digest=digest, num_bytes=len(text), payload=payload, contents=contents, **values)


def with_pictures(span: NewSpan, known: Mapping[str, Picture]) -> NewSpan:
    """The span with the sizes of its turn's pictures; flagged, and without the turn, where the team lacks one."""
    turn = span.turn
    if turn is None or not turn.media:
        return span
    if not span.pictures <= known.keys():
        payload = repack_without_turn(span.payload, turn)
        return replace(span, payload=payload, turn=None, sample_digest=None, flag=UNKNOWN_PICTURE)
    sized = [(item, known[item.name]) for item in turn.media]
    media = tuple(replace(item, width=picture.width, height=picture.height) for item, picture in sized)
    return replace(span, turn=replace(turn, media=media))


def _kept(span: Any, text: str, digest: bytes, flag: str) -> NewSpan:
    payload, contents = pack_payload(span, text, None)
    return NewSpan("", digest, len(text), payload, flag=flag, contents=contents)


def _check_identity(span: dict[str, Any], attributes: dict[str, Any], trace_id: UUID) -> None:
    span_id = span.get("span_id")
    if not isinstance(span_id, str) or not span_id or _short(span_id) != span_id:
        raise _Odd(NO_SPAN_ID)
    named = attributes.get("hud.task_run_id")
    if named is not None and _as_uuid(named) != trace_id:
        raise _Odd(OTHER_TRACE)


def _read_step(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise _Odd(MALFORMED_STEP)
    step_id, source = payload.get("step_id"), payload.get("source")
    if not (_is_int(step_id) and 0 <= step_id < 2**31) or not isinstance(source, str) or _short(source) != source:
        raise _Odd(MALFORMED_STEP)
    found: dict[str, Any] = {"step_id": step_id, "source": source}
    if source == "agent" and payload.get("sample") is not None:
        found.update(_read_sample(payload["sample"]))
    if source == "task":
        found["evaluated_reward"] = _score(payload.get("task_call"))
    return found


def _read_sample(sample: Any) -> dict[str, Any]:
    """The turn. A sample that is none is flagged; one without output is no sample."""
    if not isinstance(sample, dict):
        return {"flag": MALFORMED_SAMPLE}
    prompt, output = sample.get("prompt_token_ids") or [], sample.get("output_token_ids") or []
    logprobs = sample.get("output_logprobs") or []
    if not (_are_ids(prompt) and _are_ids(output) and _are_logprobs(logprobs) and len(logprobs) in (0, len(output))):
        return {"flag": MALFORMED_SAMPLE}
    if not output:
        return {}
    try:
        sequence = _prompt(np.array(prompt, np.int32), sample.get("prompt_chunks"))
    except _Odd as reason:
        return {"flag": str(reason)}
    arrays = np.array(output, np.int32), np.array(logprobs, np.float32)
    return {"turn": Turn(sequence.ids, *arrays, sequence.media)}


def _prompt(ids: Int32Array, chunks: Any) -> TokenSequence:
    """A prompt by its flat ids, and by its chunks, where there are any: they have the last word. Raises _Odd."""
    if chunks is None:
        return TokenSequence(ids)
    if not isinstance(chunks, list):
        raise _Odd(MALFORMED_SAMPLE)
    try:
        read = read_chunks("", chunks)
    except InvalidRequest:
        raise _Odd(MALFORMED_SAMPLE) from None
    texts = [chunk.ids for chunk in read if isinstance(chunk, TextChunk)]
    if len(texts) == len(read):
        return TokenSequence(np.concatenate([np.zeros(0, np.int32), *texts]))
    if not len(ids) or any(isinstance(chunk, ImageChunk) for chunk in read):
        raise _Odd(PROMPT_CHUNKS)
    return _beside(ids, read)


def _beside(ids: Int32Array, chunks: Sequence[Chunk]) -> TokenSequence:
    """Flat ids with the pictures that their chunks have. Raises _Odd where the two do not fit."""
    media, at = list[Media](), 0
    for chunk in chunks:
        if isinstance(chunk, PointerChunk):
            if chunk.expected_tokens is None:
                raise _Odd(PROMPT_CHUNKS)
            run = ids[at : at + chunk.expected_tokens]
            media.append(Media(at, chunk.expected_tokens, bytes.fromhex(chunk.name), 0, 0))
            fits = len(run) == chunk.expected_tokens and bool((run == run[0]).all())
        else:
            assert isinstance(chunk, TextChunk)
            run = ids[at : at + len(chunk.ids)]
            fits = np.array_equal(run, chunk.ids)
        if not fits:
            raise _Odd(MALFORMED_SAMPLE)
        at += len(run)
    if at != len(ids):
        raise _Odd(MALFORMED_SAMPLE)
    return TokenSequence(ids, tuple(media))


def _score(task_call: Any) -> float | None:
    """The score of an evaluate call, where it has one."""
    if not isinstance(task_call, dict) or task_call.get("phase") != "evaluate":
        return None
    result = task_call.get("result")
    score = result.get("score") if isinstance(result, dict) else None
    return float(score) if _is_number(score) else None


def _are_ids(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > _MOST_TOKENS or not set(map(type, value)) <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < 2**31)


def _are_logprobs(value: Any) -> bool:
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        return False
    # With a NaN among them the largest is the NaN, which is not below anything, or else the largest of the others.
    return not value or (max(map(abs, value)) <= _MOST and all(map(math.isfinite, value)))


def _is_int(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) <= _MOST and math.isfinite(value)


def _short(value: Any) -> str | None:
    """A text that can be a column: short, and storable."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        return None
    return value


def _time(value: Any) -> datetime | None:
    """An ISO time; UTC where it names no zone."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) and len(value) < 64 else None
    except ValueError:
        return None
    if time is None or not 1971 <= time.year <= 9000:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _as_uuid(value: Any) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) and len(value) in (32, 36) else None
    except ValueError:
        return None
