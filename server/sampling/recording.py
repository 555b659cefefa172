"""What of a completion is recorded: under the `Trace-Id` that its request carries, or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
from fastapi import Request

from server.catalog.repository import as_uuid
from server.context import Context
from server.rollouts.visibility import require_trace
from server.sampling.generation import Answer
from server.sampling.recorder import Served as ServedCompletion
from server.sampling.targets import Target
from server.sanitizing import readable_value
from store.rollouts import Conversation, NewSample, Served
from wire.sampling import GenerateRequest
from wire.trajectories import Turn

TRACE_HEADER = "Trace-Id"
_NOT_OF_SAMPLING = {"top_logprobs"}


@dataclass(frozen=True, slots=True)
class Recording:
    """Of one request, of so many bytes. `began`: of the monotonic clock."""

    context: Context
    trace_id: UUID
    num_bytes: int
    began: float = field(default_factory=time.monotonic)

    async def keep(
        self,
        target: Target,
        completion_id: str,
        sequences: Sequence[GenerateRequest],
        answers: Sequence[Answer],
        conversation_of: Callable[[int], Conversation],
    ) -> None:
        """Record every answer; returns when that is done, or cannot be. `conversation_of`: of the index-th."""
        at, seconds = datetime.now(UTC), time.monotonic() - self.began

        def make() -> list[NewSample]:
            return [
                self._sample(
                    target,
                    Served(
                        at,
                        completion_id,
                        target.model_id,
                        target.checkpoint_id,
                        _sampling(sequence, index, len(answers)),
                        answer.finish_reason,
                        seconds,
                        conversation_of(index),
                        self.num_bytes,
                    ),
                    answer,
                )
                for index, (sequence, answer) in enumerate(zip(sequences, answers, strict=True))
                if answer.tokens
            ]

        num_bytes = self.num_bytes + 4 * sum(len(answer.prompt_ids) + len(answer.tokens) for answer in answers)
        served = ServedCompletion(target.team_id, self.trace_id, target.slug, num_bytes, make)
        await self.context.recorder.keep(served)

    def _sample(self, target: Target, served: Served, answer: Answer) -> NewSample:
        prompt_ids, tokens = answer.prompt_ids, answer.tokens
        logprobs = np.array(tokens.logprobs, np.float32)
        turn = Turn(np.array(prompt_ids, np.int32), np.array(tokens.ids, np.int32), logprobs)
        return NewSample(target.team_id, self.trace_id, turn, served)


async def recording_of(context: Context, target: Target, request: Request) -> Recording | None:
    """How to record this request. None without a trace id, or with one that is no UUID (other tools send such).

    Raises Forbidden where the key is for some models and the trace is of another: it would become one of these.
    """
    trace_id = as_uuid(request.headers.get(TRACE_HEADER, ""))
    if trace_id is None:
        return None
    await require_trace(context.database, target.caller, trace_id, reports=True)
    return Recording(context, trace_id, len(await request.body()))


def _sampling(sequence: GenerateRequest, index: int, count: int) -> dict[str, Any]:
    choice = {"choice": index} if count > 1 else {}
    return {**readable_value(sequence.params.model_dump(exclude=_NOT_OF_SAMPLING, exclude_none=True)), **choice}
