"""What of a vendor's answer is recorded: the conversation and the usage. There are no tokens to train on."""

from __future__ import annotations

import time
import uuid
from datetime import datetime
from typing import Any

import numpy as np

from server.sampling.recorder import Served as ServedCompletion
from server.sampling.requests import Rollout
from server.upstreams.types import Answered, UpstreamCall, UpstreamTarget
from server.values.sanitizing import readable_value
from store.rollouts import Conversation, NewSample, Served
from wire.trajectories import Turn

_NONE = Turn(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))


def served_by_vendor(
    at: datetime, target: UpstreamTarget, call: UpstreamCall, rollout: Rollout, began: float, num_reply_bytes: int
) -> ServedCompletion:
    """The samples of a call that was answered at this time. `began`: of the monotonic clock."""
    seconds = time.monotonic() - began
    name = f"{uuid.uuid4().hex}:{target.upstream.api}"
    answers = call.reader.answers()

    def make() -> list[NewSample]:
        return [
            NewSample(target.caller.team_id, rollout.trace_id, _NONE, served(index, answer), rollout.attempt)
            for index, answer in enumerate(answers)
        ]

    def served(index: int, answer: Answered) -> Served:
        preamble = {"tools": list(call.tools)} if call.tools else {}
        return Served(
            at,
            f"{name}:{index}",
            target.model_id,
            None,
            _sampling(target, call),
            answer.finish_reason,
            seconds,
            Conversation(preamble, list(call.messages), answer.message),
            rollout.num_bytes,
        )

    num_bytes = call.num_bytes + num_reply_bytes
    return ServedCompletion(target.caller.team_id, rollout.trace_id, target.slug, num_bytes, make)


def _sampling(target: UpstreamTarget, call: UpstreamCall) -> dict[str, Any]:
    known = {"upstream": target.upstream.api, "model": target.upstream.model, "reply_id": call.reader.id}
    said = {**known, **call.settings, "usage": call.reader.usage}
    return readable_value({name: value for name, value in said.items() if value is not None})
