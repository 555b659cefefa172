"""Answers as far as they have been sampled, and the stream of events that they grow by."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wire.sampling import GenerateEvent, MediaItem, MessageDelta, ParsedCall, ParsedMessage, SampledTokens

Events = AsyncGenerator[tuple[int, GenerateEvent]]
"""(index of the sequence, event)."""


@dataclass(slots=True)
class Answer:
    """One sampled sequence.

    prompt_ids: after which; prompt_media: the pictures there. Of a chat that the sampler renders, both come with the
    first tokens. message: what a whole answer to a chat says; deltas: what one says that came in pieces. single_call:
    as in `Chat`.
    """

    prompt_ids: list[int]
    single_call: bool = False
    prompt_media: list[MediaItem] = field(default_factory=list[MediaItem])
    tokens: SampledTokens = field(default_factory=SampledTokens)
    text: str = ""
    finish_reason: str | None = None
    message: ParsedMessage | None = None
    deltas: list[MessageDelta] = field(default_factory=list[MessageDelta])
    _call_ids: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, event: GenerateEvent) -> None:
        """Take the next tokens."""
        if event.prompt_token_ids is not None:
            self.prompt_ids, self.prompt_media = event.prompt_token_ids, event.prompt_media
        if self.single_call:
            _drop_later_calls(event)
        self.tokens.extend(event.tokens)
        self.text += event.text
        self.finish_reason = event.finish_reason
        self.message = event.message
        self.deltas += event.deltas

    def call_id(self, index: int) -> str:
        """The id of a tool call of this answer."""
        return self._call_ids.setdefault(index, f"call_{uuid.uuid4().hex[:24]}")

    def stopped_by(self, stop: Sequence[str]) -> str | None:
        """Which of these texts ended the answer, of which it is no part; None: something else did."""
        if self.finish_reason != "stop" or not stop:
            return None
        tokens = self.tokens
        parts = (tokens.bytes_of(token_id, text) for token_id, text in zip(tokens.ids, tokens.texts, strict=True))
        cut_off = b"".join(parts).decode("utf-8", "replace")[len(self.text) :]
        return next((one for one in stop if cut_off.startswith(one)), None)

    def as_message(self) -> dict[str, Any]:
        """The answer to a chat as chat templates read it in the next turn's prompt."""
        parsed = self.message or _joined(self.deltas)
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.reasoning_content:
            message["reasoning_content"] = parsed.reasoning_content
        if parsed.tool_calls:
            message["tool_calls"] = [
                {
                    "id": self.call_id(index),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for index, call in enumerate(parsed.tool_calls)
            ]
        return message


class AnswerStream:
    """Events of all sequences as they come, the first of which has come. `answers` have each event before it is
    yielded. Ends when they are on record; closing it stops the sampler."""

    def __init__(self, answers: list[Answer], first: tuple[int, GenerateEvent], rest: Events) -> None:
        self.answers = answers
        self._first: tuple[int, GenerateEvent] | None = first
        self._rest = rest

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> tuple[int, GenerateEvent]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._rest)

    async def aclose(self) -> None:
        """Stop sampling."""
        await self._rest.aclose()


def _drop_later_calls(event: GenerateEvent) -> None:
    for delta in event.deltas:
        delta.tool_calls = [call for call in delta.tool_calls if not call.index]
    if event.message is not None:
        del event.message.tool_calls[1:]


def _joined(deltas: Sequence[MessageDelta]) -> ParsedMessage:
    content, reasoning, calls = "", "", dict[int, ParsedCall]()
    for delta in deltas:
        content += delta.content or ""
        reasoning += delta.reasoning_content or ""
        for call in delta.tool_calls:
            begun = calls.setdefault(call.index, ParsedCall(name=call.name or "", arguments=""))
            begun.arguments += call.arguments
    return ParsedMessage(content=content or None, reasoning_content=reasoning or None, tool_calls=list(calls.values()))
