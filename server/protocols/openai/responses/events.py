"""A response as it comes: items that begin, grow and end, one after the other, in numbered events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from server.http.named_events import Event, Events
from server.protocols.openai.responses.replies import Item, Reply, ending, text_part
from server.protocols.openai.shared.errors import openai_error
from server.sampling.answers import Answer, AnswerStream
from wire.sampling import CallDelta, GenerateEvent

_TEXTS = {"reasoning": "response.reasoning_text", "message": "response.output_text"}
"""Kinds of items that are a text, and how the events are called in which it grows."""


class ResponseStream:
    """The events of one response."""

    def __init__(self, reply: Reply, stream: AnswerStream) -> None:
        self._reply = reply
        self._stream = stream
        [answer] = stream.answers
        self._items = _Items(reply, answer)
        self._answer = answer
        self._number = 0

    async def events(self) -> Events:
        """All of them. Closing it closes the stream."""
        async with aclosing(self._stream):
            for kind in ("response.created", "response.in_progress"):
                yield self._numbered({"type": kind, "response": self._reply.response("in_progress", [])})
            async for _, event in self._stream:
                for one in self._items.take(event):
                    yield self._numbered(one)
            for one in self._items.finish():
                yield self._numbered(one)
        response = self._reply.complete(self._items.done, self._answer)
        yield self._numbered({"type": f"response.{ending(self._answer)}", "response": response})

    def broken(self, status: int, code: str, message: str, param: str | None) -> Event:
        """The last event of a stream that breaks. Clients raise what its `error` says."""
        shaped = openai_error(status, code, message, param)
        said = {"code": shaped["error"]["code"], "message": message, "param": param}
        return self._numbered({"type": "error", **said, "error": shaped["error"]})

    def _numbered(self, event: Event) -> Event:
        self._number += 1
        return {**event, "sequence_number": self._number - 1}


class _Items:
    """The items of one answer, `done` in their order. One is open at a time: a text that grows, or a call."""

    def __init__(self, reply: Reply, answer: Answer) -> None:
        self.done = list[Item]()
        self._reply = reply
        self._answer = answer
        self._kind: str | None = None
        self._text = ""
        self._logprobs = list[Any]()
        self._unsent = list[Any]()
        self._call: CallDelta | None = None

    def take(self, event: GenerateEvent) -> Iterator[Event]:
        self._unsent += self._reply.logprobs(event.tokens)
        for delta in event.deltas:
            for kind, text in (("reasoning", delta.reasoning_content), ("message", delta.content)):
                if text:
                    yield from self._grow(kind, text)
            for call in delta.tool_calls:
                yield from self._grow_call(call)

    def finish(self) -> Iterator[Event]:
        """When the answer has ended. One that says nothing is an empty message."""
        yield from self._close()
        if all(item["type"] == "reasoning" for item in self.done):
            yield from self._open("message", self._reply.message(len(self.done), None))
            yield from self._close()

    def _grow(self, kind: str, text: str) -> Iterator[Event]:
        if self._kind != kind:
            yield from self._close()
            begun = self._reply.reasoning if kind == "reasoning" else self._reply.message
            yield from self._open(kind, begun(len(self.done), None))
        self._text += text
        more = {"logprobs": self._take_logprobs()} if kind == "message" else {}
        yield self._of_part(f"{_TEXTS[kind]}.delta", delta=text, **more)

    def _grow_call(self, call: CallDelta) -> Iterator[Event]:
        if self._call is None or self._call.index != call.index:
            yield from self._close()
            self._call = CallDelta(index=call.index, name=call.name)
            call_id = self._answer.call_id(call.index)
            yield from self._open("call", self._reply.call(len(self.done), call_id, call.name or "", None))
        self._text += call.arguments
        if call.arguments:
            yield self._of_item("response.function_call_arguments.delta", delta=call.arguments)

    def _open(self, kind: str, item: Item) -> Iterator[Event]:
        self._kind, self._text, self._logprobs = kind, "", []
        self._item_id = item["id"]
        yield {"type": "response.output_item.added", "output_index": len(self.done), "item": item}
        if kind in _TEXTS:
            yield self._of_part("response.content_part.added", part=self._part(""))

    def _close(self) -> Iterator[Event]:
        if self._kind is None:
            return
        self._take_logprobs()
        item = self._closed()
        yield from self._last_events(item)
        yield {"type": "response.output_item.done", "output_index": len(self.done), "item": item}
        self.done.append(item)
        self._kind = self._call = None

    def _closed(self) -> Item:
        """The open item as it is in the end."""
        index, text = len(self.done), self._text
        if self._call is not None:
            return self._reply.call(index, self._answer.call_id(self._call.index), self._call.name or "", text)
        if self._kind == "reasoning":
            return self._reply.reasoning(index, text)
        return self._reply.message(index, text, self._logprobs)

    def _last_events(self, item: Item) -> Iterator[Event]:
        if self._kind not in _TEXTS:
            yield self._of_item("response.function_call_arguments.done", arguments=self._text, name=item["name"])
            return
        more = {"logprobs": self._logprobs} if self._kind == "message" else {}
        yield self._of_part(f"{_TEXTS[self._kind]}.done", text=self._text, **more)
        yield self._of_part("response.content_part.done", part=self._part(self._text))

    def _take_logprobs(self) -> list[Any]:
        """Those of what was sampled since; they belong to messages alone."""
        if self._kind != "message":
            return []
        taken, self._unsent = self._unsent, []
        self._logprobs += taken
        return taken

    def _part(self, text: str) -> dict[str, Any]:
        return (
            {"type": "reasoning_text", "text": text} if self._kind == "reasoning" else text_part(text, self._logprobs)
        )

    def _of_item(self, kind: str, **facts: Any) -> Event:
        return {"type": kind, "item_id": self._item_id, "output_index": len(self.done), **facts}

    def _of_part(self, kind: str, **facts: Any) -> Event:
        return self._of_item(kind, content_index=0, **facts)
