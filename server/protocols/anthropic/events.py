"""A message as it comes: blocks that begin, grow and end, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from server.http.named_events import Event, Events
from server.protocols.anthropic.errors import anthropic_error
from server.protocols.anthropic.replies import Reply, tool_use, usage
from server.protocols.anthropic.tool_inputs import input_of
from server.sampling.answers import Answer, AnswerStream
from wire.sampling import CallDelta, MessageDelta

_GROWS = {"thinking": "thinking_delta", "text": "text_delta"}
"""Kinds of block whose text comes in pieces."""


async def message_events(reply: Reply, stream: AnswerStream) -> Events:
    """All events of a stream. Closing it closes the stream."""
    [answer] = stream.answers
    blocks, started = _Blocks(reply, answer), False
    async with aclosing(stream):
        async for _, event in stream:
            if not started:
                started = True
                yield {"type": "message_start", "message": reply.message(len(answer.prompt_ids))}
                yield {"type": "ping"}
            for delta in event.deltas:
                for one in blocks.take(delta):
                    yield one
        for one in blocks.end():
            yield one
    spent = usage(len(answer.prompt_ids), len(answer.tokens))
    yield {"type": "message_delta", "delta": reply.ending(answer), "usage": spent}
    yield {"type": "message_stop"}


def broken(status: int, code: str, message: str, param: str | None) -> Event:
    """The last event of a stream that breaks."""
    return anthropic_error(status, code, message, param)


class _Blocks:
    """The blocks of one answer. A call's block is sent when the call is complete: a client reads its pieces together as
    JSON, and what is none has to be wrapped first."""

    def __init__(self, reply: Reply, answer: Answer) -> None:
        self._reply = reply
        self._answer = answer
        self._index = -1
        self._open: str | None = None
        self._call: CallDelta | None = None

    def take(self, delta: MessageDelta) -> Iterator[Event]:
        for kind, text in (("thinking", delta.reasoning_content), ("text", delta.content)):
            if text:
                yield from self._end_call()
                yield from self._grow(kind, text)
        for call in delta.tool_calls:
            if self._call is not None and self._call.index == call.index:
                self._call.arguments += call.arguments
                continue
            yield from self.end()
            self._call = call.model_copy()

    def end(self) -> Iterator[Event]:
        """Of whatever is open."""
        yield from self._end_call()
        yield from self._close()

    def _grow(self, kind: str, text: str) -> Iterator[Event]:
        if self._open != kind:
            yield from self._close()
            more = {"signature": ""} if kind == "thinking" else {}
            yield self._begin(kind, {"type": kind, kind: "", **more})
        yield self._delta({"type": _GROWS[kind], kind: text})

    def _end_call(self) -> Iterator[Event]:
        if self._call is None:
            return
        call, self._call = self._call, None
        given = input_of(call.arguments)
        is_as_written = bool(call.arguments) and "INVALID_JSON" not in given
        yield self._begin("tool_use", tool_use(self._answer.call_id(call.index), call.name or "", {}))
        yield self._delta(
            {"type": "input_json_delta", "partial_json": call.arguments if is_as_written else json.dumps(given)}
        )
        yield from self._close()

    def _begin(self, kind: str, block: dict[str, Any]) -> Event:
        self._index += 1
        self._open = kind
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[Event]:
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": self._reply.signature})
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._index}
