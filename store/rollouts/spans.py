"""A span of telemetry, read: what it is, whether it counts, and the tokens it brings.

Nothing is refused here. A span that is not what it should be is kept as it came, with a flag that says why it does not
count; its trace carries the same flag.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import UUID

import numpy as np

from store.rollouts.digests import sample_digest
from store.rollouts.payloads import pack_payload
from wire.trajectories import Turn

STEP_SCHEMA = "hud.step.v1"

NOT_AN_OBJECT = "not_an_object"
NO_SPAN_ID = "no_span_id"
OTHER_TRACE = "other_trace"
MALFORMED_STEP = "malformed_step"
MALFORMED_SAMPLE = "malformed_sample"
PROMPT_CHUNKS = "prompt_chunks"
SPAN_ID_REUSED = "span_id_reused"

_MAX_TEXT = 200
_MOST_TOKENS = 2**24
_MOST = 3.4e38


@dataclass(frozen=True, slots=True)
class NewSpan:
    """A span as columns of its row, and what it says of its trace. `turn`: the sample of an agent's step."""

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
    return NewSpan(digest=digest, num_bytes=len(text), payload=pack_payload(span, text, turn), **values)


def _kept(span: Any, text: str, digest: bytes, flag: str) -> NewSpan:
    return NewSpan("", digest, len(text), pack_payload(span, text, None), flag=flag)


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
    """The turn. A sample with image prompts, or that is none, is flagged; one without output is no sample."""
    if not isinstance(sample, dict):
        return {"flag": MALFORMED_SAMPLE}
    if sample.get("prompt_chunks") is not None:
        return {"flag": PROMPT_CHUNKS}
    prompt, output = sample.get("prompt_token_ids") or [], sample.get("output_token_ids") or []
    logprobs = sample.get("output_logprobs") or []
    if not (_are_ids(prompt) and _are_ids(output) and _are_logprobs(logprobs) and len(logprobs) in (0, len(output))):
        return {"flag": MALFORMED_SAMPLE}
    if not output:
        return {}
    arrays = np.array(prompt, np.int32), np.array(output, np.int32)
    return {"turn": Turn(*arrays, np.array(logprobs, np.float32))}


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
