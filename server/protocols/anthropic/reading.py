"""Reads messages and their streams for the record, as messages of a chat."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from server.upstreams.types import Answered

_GROWS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class MessageReader:
    """See ReplyReader."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.usage: dict[str, Any] | None = None
        self.is_complete = False
        self._blocks = dict[int, dict[str, Any]]()
        self._stop_reason: str | None = None
        self._has_begun = False

    def whole(self, reply: Any) -> None:
        """See ReplyReader."""
        if isinstance(reply, dict):
            self._begin(reply)
            self._end(reply)
            self.is_complete = True

    def event(self, data: Any) -> None:
        """See ReplyReader."""
        if not isinstance(data, dict):
            return
        kind, index = data.get("type"), data.get("index")
        index = index if isinstance(index, int) else 0
        if kind == "message_start":
            self._begin(_dict(data.get("message")))
        elif kind == "content_block_start":
            self._blocks[index] = dict(_dict(data.get("content_block")))
        elif kind == "content_block_delta":
            self._grow(self._blocks.setdefault(index, {}), _dict(data.get("delta")))
        elif kind == "message_delta":
            self._end({**_dict(data.get("delta")), "usage": data.get("usage")})
        elif kind == "message_stop":
            self.is_complete = True

    def answers(self) -> Sequence[Answered]:
        """See ReplyReader."""
        if not self._has_begun:
            return []
        return [Answered(_message([self._blocks[i] for i in sorted(self._blocks)]), self._stop_reason)]

    def _begin(self, message: dict[str, Any]) -> None:
        self._has_begun = True
        self.id = message["id"] if isinstance(message.get("id"), str) else None
        self.usage = message["usage"] if isinstance(message.get("usage"), dict) else None
        content = message.get("content")
        self._blocks = dict(enumerate(map(_dict, content))) if isinstance(content, list) else {}

    def _end(self, ending: dict[str, Any]) -> None:
        if isinstance(ending.get("usage"), dict):
            self.usage = {**(self.usage or {}), **ending["usage"]}
        if isinstance(ending.get("stop_reason"), str):
            self._stop_reason = ending["stop_reason"]

    def _grow(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        name = _GROWS.get(str(delta.get("type")))
        if name is not None and isinstance(delta.get(name), str):
            before = block.get(name)
            block[name] = (before if isinstance(before, str) else "") + delta[name]


def _message(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Texts together, thoughts as reasoning, uses of tools as calls, all else as it is."""
    texts, thoughts, calls, others = list[str](), list[str](), list[dict[str, Any]](), list[Any]()
    for block in blocks:
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif block.get("type") == "thinking" and isinstance(block.get("thinking"), str):
            thoughts.append(block["thinking"])
        elif block.get("type") == "tool_use":
            calls.append(_call(block))
        else:
            others.append(block)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return message | ({"tool_calls": calls} if calls else {}) | ({"blocks": others} if others else {})


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = block.get("input")
    if isinstance(block.get("partial_json"), str):
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(block["partial_json"] or "{}")
    function = {"name": block.get("name"), "arguments": json.dumps(arguments)}
    return {"id": block.get("id"), "type": "function", "function": function}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
