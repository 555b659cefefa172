"""What of a request and its answers is recorded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from server.sampling.answers import Answer
from server.sampling.recorder import Served as ServedCompletion
from server.sampling.requests import Chat, Prompt, Rollout, SampleRequest
from server.sampling.target import Target
from server.values.sanitizing import readable_value
from store.rollouts import Conversation, NewSample, Served
from wire.media_items import media_of
from wire.sampling import GenerateRequest
from wire.trajectories import Turn

_NOT_OF_SAMPLING = {"top_logprobs"}


def served_completion(
    at: datetime,
    target: Target,
    request: SampleRequest,
    rollout: Rollout,
    began: float,
    sequences: Sequence[GenerateRequest],
    answers: Sequence[Answer],
) -> ServedCompletion:
    """The samples of a request that was answered at this time. `began`: of the monotonic clock."""
    seconds = time.monotonic() - began
    checkpoint_id = target.checkpoint.id if target.checkpoint else None

    def served(index: int, sequence: GenerateRequest, answer: Answer) -> Served:
        return Served(
            at,
            request.id,
            target.model_id,
            checkpoint_id,
            _sampling(sequence, index, len(answers)),
            answer.finish_reason,
            seconds,
            _conversation(request.prompt_of(index), answer),
            rollout.num_bytes,
        )

    def make() -> list[NewSample]:
        return [
            _sample(target.team_id, rollout, served(index, sequence, answer), answer)
            for index, (sequence, answer) in enumerate(zip(sequences, answers, strict=True))
            if answer.tokens
        ]

    num_bytes = rollout.num_bytes + 4 * sum(len(answer.prompt_ids) + len(answer.tokens) for answer in answers)
    return ServedCompletion(target.team_id, rollout.trace_id, target.slug, num_bytes, make)


def preamble_of(chat: Chat) -> dict[str, Any]:
    """What of a chat's request is no message."""
    asked = {"tools": chat.render.tools, "chat_template_kwargs": chat.render.chat_template_kwargs}
    return {name: value for name, value in asked.items() if value}


def _sample(team_id: UUID, rollout: Rollout, served: Served, answer: Answer) -> NewSample:
    prompt_ids, tokens = answer.prompt_ids, answer.tokens
    logprobs = np.array(tokens.logprobs, np.float32)
    media = media_of(answer.prompt_media)
    turn = Turn(np.array(prompt_ids, np.int32), np.array(tokens.ids, np.int32), logprobs, media)
    return NewSample(team_id, rollout.trace_id, turn, served, rollout.attempt)


def _sampling(sequence: GenerateRequest, index: int, count: int) -> dict[str, Any]:
    choice = {"choice": index} if count > 1 else {}
    return {**readable_value(sequence.params.model_dump(exclude=_NOT_OF_SAMPLING, exclude_none=True)), **choice}


def _conversation(prompt: Prompt, answer: Answer) -> Conversation:
    if isinstance(prompt, Chat):
        return Conversation(preamble_of(prompt), prompt.messages, answer.as_message())
    return Conversation({"prompt": prompt} if isinstance(prompt, str) else {}, [], answer.text)
