"""Our own rows, which `POST /v2/traces/import` reads back exactly.

Token ids are integers. A logprob is printed as the double that equals the float32, a reward as the double it is: both
come back bit for bit. JSON without a fixed shape (requests, evaluation results) is JSON within a string, so that every
row has the same columns. `prompt` and `completion` are for readers; an import goes by the turns. `prompt_media` of a
turn: which of its prompt's tokens stand for which picture.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from server.rollouts.formats.dialogue import dialogue_of
from server.rollouts.formats.pictures import media_of
from server.rollouts.ids import id_or_none
from server.rollouts.transfer_types import TRACE_FORMAT
from server.values.sanitizing import storable_text
from store.rollouts import RecordedSample, Resolved


def headway_row(resolved: Resolved) -> dict[str, Any]:
    """The rollout with everything that training on it needs. `prompt` and `completion` are null without words."""
    trace, dialogue = resolved.trace, dialogue_of(resolved)
    prompt, completion = dialogue.messages() if dialogue else (None, None)
    return {
        "format": TRACE_FORMAT,
        "trace_id": str(trace.id),
        "prompt": prompt,
        "completion": completion,
        "reward": finite(trace.reward),
        "status": trace.status,
        "timed_out": trace.timed_out,
        "error": trace.error,
        "stop_reason": trace.stop_reason,
        "evaluation_result": as_text(trace.evaluation_result),
        "extra": as_text(trace.extra),
        "job_id": id_or_none(trace.job_id),
        "group_id": trace.group_id,
        "parent_trace_id": trace.parent_trace_id,
        "task_slug": trace.task_slug,
        "model": trace.model,
        "created_at": _time(trace.created_at),
        "entered_at": _time(trace.entered_at),
        "exited_at": _time(trace.exited_at),
        "flags": trace.flags,
        "labels": trace.labels,
        "comments": [
            {"author": one.author, "text": one.text, "created_at": _time(one.created_at)} for one in resolved.comments
        ],
        "turns": [_turn(sample) for sample in resolved.samples],
    }


def finite(reward: float | None) -> float | None:
    """JSON has no other numbers, and nothing trains on them."""
    return reward if reward is not None and math.isfinite(reward) else None


def as_text(value: Any) -> str | None:
    """JSON within a string, in ASCII: half surrogate pairs come back as they were."""
    return json.dumps(value) if value is not None else None


def _turn(sample: RecordedSample) -> dict[str, Any]:
    turn, asked = sample.turn, sample.conversation
    request = {"preamble": asked.preamble, "messages": asked.messages, "reply": asked.reply} if asked else None
    return {
        "prompt_token_ids": turn.prompt_ids,
        "prompt_media": media_of(turn),
        "output_token_ids": turn.output_ids,
        "output_logprobs": turn.sampling_logprobs,
        "checkpoint_id": id_or_none(sample.checkpoint_id),
        "model_id": id_or_none(sample.model_id),
        "served_at": _time(sample.served_at),
        "completion_id": sample.completion_id,
        "sampling": as_text(sample.sampling),
        "finish_reason": storable_text(sample.finish_reason) if sample.finish_reason else None,
        "seconds": sample.seconds,
        "request": as_text(request),
    }


def _time(value: datetime | None) -> str | None:
    return value.isoformat() if value is not None else None
