"""Replies in OpenAI's shapes, with token ids and the serving checkpoint."""

from __future__ import annotations

import codecs
import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from fastapi.responses import Response
from pydantic import BaseModel

from server.http.checkpoint_headers import checkpoint_headers
from server.protocols.openai.schemas import (
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    PromptTokensDetails,
    ServingCheckpoint,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from server.sampling.answers import Answer
from server.sampling.target import Target
from wire.extension import TokenSequence
from wire.media_items import media_of
from wire.prompt_chunks import to_chunks
from wire.sampling import SampledTokens


class Envelope:
    """What all pieces of one reply have in common."""

    def __init__(self, target: Target, kind: str, off_policy: list[str], completion_id: str) -> None:
        self._kind = kind
        self._off_policy = off_policy
        self._id = f"cmpl-{completion_id}"
        self._created = int(time.time())
        self._target = target
        self._model = target.slug
        self._checkpoint = _serving_checkpoint(target)

    def around(self, choices: list[ChatChoice] | list[CompletionChoice], **more: Any) -> Completion:
        """A reply, or a chunk of one."""
        return Completion(
            id=self._id,
            object=self._kind,
            created=self._created,
            model=self._model,
            choices=choices,
            checkpoint=self._checkpoint,
            **more,
        )

    @property
    def headers(self) -> dict[str, str]:
        """The checkpoint for those who do not parse the body, and what makes a training rollout off-policy."""
        return checkpoint_headers(self._target, self._off_policy)


def _serving_checkpoint(target: Target) -> ServingCheckpoint | None:
    served = target.checkpoint
    return ServingCheckpoint(id=str(served.id), name=served.name, step=served.step) if served else None


def as_json(reply: BaseModel) -> str:
    """The reply with the fields that were set."""
    return reply.model_dump_json(exclude_unset=True)


def json_response(envelope: Envelope, reply: Completion) -> Response:
    """A whole reply."""
    return Response(as_json(reply), media_type="application/json", headers=envelope.headers)


def usage(prompt_tokens: int, answers: Iterable[Answer]) -> Usage:
    """What a request cost. Samplers do not report what their prefix cache saved."""
    completion_tokens = sum(len(answer.tokens) for answer in answers)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0),
    )


def chat_message(answer: Answer) -> ChatMessage:
    """An answer as clients replay it: keys that would be null are left out, but for `content`."""
    return ChatMessage(**answer.as_message())


def shown_prompt(answer: Answer) -> dict[str, Any]:
    """The prompt as it was sampled from: its ids, and with pictures also its chunks, which name them."""
    if not answer.prompt_media:
        return {"prompt_token_ids": answer.prompt_ids}
    prompt = TokenSequence(np.array(answer.prompt_ids, np.int32), media_of(answer.prompt_media))
    return {"prompt_token_ids": answer.prompt_ids, "prompt_chunks": to_chunks(prompt)}


def finish_reason(answer: Answer, *, called: bool) -> str | None:
    """OpenAI's word for why the answer ended; `called`: tools were."""
    return "tool_calls" if called and answer.finish_reason == "stop" else answer.finish_reason


def chat_logprobs(tokens: SampledTokens) -> ChatLogprobs:
    """One entry a token. All `bytes` joined are the answer's; part of a character is named by them, as OpenAI does."""
    alternatives = tokens.top_logprobs or itertools.repeat(())
    content: list[TokenLogprob] = [
        {
            **_entry(tokens, token_id, text, logprob),
            "top_logprobs": [_entry(tokens, top.token_id, top.token, top.logprob) for top in tops] if tops else [],
        }
        for token_id, text, logprob, tops in zip(tokens.ids, tokens.texts, tokens.logprobs, alternatives, strict=False)
    ]
    return ChatLogprobs.model_construct(content=content)  # to check it would cost three times what it takes to make it


def _entry(tokens: SampledTokens, token_id: int, text: str, logprob: float) -> TokenAlternative:
    data = tokens.bytes_of(token_id, text)
    return {"token": text or _escaped(data), "logprob": logprob, "bytes": list(data)}


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


class TextOffsets:
    """Where in its answer's text each token begins, in characters. A character begins with the first of its bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_characters = 0

    def of(self, tokens: SampledTokens) -> list[int]:
        """Of the answer's next tokens."""
        offsets = list[int]()
        for token_id, text in zip(tokens.ids, tokens.texts, strict=True):
            offsets.append(self._num_characters)
            self._num_characters += len(self._decoder.decode(tokens.bytes_of(token_id, text)))
        return offsets


def completion_logprobs(tokens: SampledTokens, offsets: TextOffsets) -> CompletionLogprobs:
    """One entry a token, in columns. Part of a character is named by its bytes, as in OpenAI's endpoint."""

    def name(token_id: int, text: str) -> str:
        data = b"" if text else tokens.bytes_of(token_id, text)
        return f"bytes:{_escaped(data)}" if data else text

    return CompletionLogprobs(
        tokens=[name(token_id, text) for token_id, text in zip(tokens.ids, tokens.texts, strict=True)],
        token_logprobs=tokens.logprobs,
        top_logprobs=[{name(top.token_id, top.token): top.logprob for top in tops} for tops in tokens.top_logprobs]
        or [dict[str, float]() for _ in tokens.ids],
        text_offset=offsets.of(tokens),
    )
