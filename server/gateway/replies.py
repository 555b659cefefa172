"""Replies in OpenAI's shapes, with token ids and the serving checkpoint."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel

from server.gateway.generation import Answer
from server.gateway.targets import Target
from wire.chat import (
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FunctionCall,
    PromptTokensDetails,
    TokenAlternative,
    TokenLogprob,
    ToolCall,
    Usage,
)
from wire.sampling import ParsedCall, ParsedMessage, SampledTokens, TopLogprob

CHECKPOINT_HEADER = "X-Headway-Checkpoint"
OFF_POLICY_HEADER = "X-Headway-Off-Policy"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all pieces of one reply have in common."""

    target: Target
    kind: str
    off_policy: list[str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def around(self, choices: list[ChatChoice] | list[CompletionChoice], **more: Any) -> Completion:
        """A reply, or a chunk of one."""
        return Completion(
            id=f"cmpl-{self.id}",
            object=self.kind,
            created=self.created,
            model=self.target.slug,
            choices=choices,
            checkpoint=self.target.serving,
            **more,
        )

    @property
    def headers(self) -> dict[str, str]:
        """The checkpoint for those who do not parse the body, and what makes a training rollout off-policy."""
        serving = self.target.serving
        headers = {CHECKPOINT_HEADER: serving.name if serving else "base"}
        return {**headers, OFF_POLICY_HEADER: ", ".join(self.off_policy)} if self.off_policy else headers


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


def chat_message(parsed: ParsedMessage) -> ChatMessage:
    """An answer as clients replay it: keys that would be null are left out, but for `content`."""
    more: dict[str, Any] = {}
    if parsed.reasoning_content:
        more["reasoning_content"] = parsed.reasoning_content
    if parsed.tool_calls:
        more["tool_calls"] = [tool_call(call) for call in parsed.tool_calls]
    return ChatMessage(role="assistant", content=parsed.content, **more)


def tool_call(call: ParsedCall) -> ToolCall:
    """A tool call with a fresh id."""
    return ToolCall(id=new_call_id(), type="function", function=FunctionCall(name=call.name, arguments=call.arguments))


def new_call_id() -> str:
    """An id as OpenAI's look."""
    return f"call_{uuid.uuid4().hex[:24]}"


def finish_reason(answer: Answer, *, called: bool) -> str | None:
    """OpenAI's word for why the answer ended; `called`: tools were."""
    return "tool_calls" if called and answer.finish_reason == "stop" else answer.finish_reason


def chat_logprobs(tokens: SampledTokens) -> ChatLogprobs:
    """One entry a token."""
    alternatives = tokens.top_logprobs or itertools.repeat(())
    content: list[TokenLogprob] = [
        {
            "token": text,
            "logprob": logprob,
            "bytes": list(text.encode()),
            "top_logprobs": [_alternative(top) for top in tops] if tops else [],
        }
        for text, logprob, tops in zip(tokens.texts, tokens.logprobs, alternatives, strict=False)
    ]
    return ChatLogprobs.model_construct(content=content)  # to check it would cost three times what it takes to make it


def _alternative(top: TopLogprob) -> TokenAlternative:
    return {"token": top.token, "logprob": top.logprob, "bytes": list(top.token.encode())}


def completion_logprobs(tokens: SampledTokens, text_offset: int = 0) -> CompletionLogprobs:
    """One entry a token, in columns. Offsets count characters of the answer's text."""
    offsets = list[int]()
    for text in tokens.texts:
        offsets.append(text_offset)
        text_offset += len(text)
    return CompletionLogprobs(
        tokens=tokens.texts,
        token_logprobs=tokens.logprobs,
        top_logprobs=[{top.token: top.logprob for top in tops} for tops in tokens.top_logprobs]
        or [dict[str, float]() for _ in tokens.ids],
        text_offset=offsets,
    )
