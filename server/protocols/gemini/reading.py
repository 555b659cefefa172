"""Reads contents for the record, as messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.upstreams.types import Answered


def as_messages(sent: dict[str, Any], contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked: the system's instruction, and each content with its parts as they are."""
    system = sent.get("systemInstruction", sent.get("system_instruction"))
    messages = [{"role": "system", "content": _parts(system)}] if system else []
    for content in contents:
        role = "assistant" if content.get("role") == "model" else "user"
        messages.append({"role": role, "content": _parts(content)})
    return messages


def declared_tools(sent: dict[str, Any]) -> list[Any]:
    """The functions that were offered, and what else tools there are."""
    found, tools = list[Any](), sent.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        declared = _dict(tool).get("functionDeclarations", _dict(tool).get("function_declarations"))
        found += declared if isinstance(declared, list) else [tool]
    return found


class ContentReader:
    """See ReplyReader. Of several candidates it reads each."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.usage: dict[str, Any] | None = None
        self._parts = dict[int, list[dict[str, Any]]]()
        self._reasons = dict[int, str]()

    @property
    def is_complete(self) -> bool:
        """See ReplyReader. (A stream ends without a word.)"""
        return False

    def whole(self, reply: Any) -> None:
        """See ReplyReader."""
        self.event(reply)

    def event(self, data: Any) -> None:
        """See ReplyReader."""
        reply = _dict(data)
        if isinstance(reply.get("responseId"), str):
            self.id = reply["responseId"]
        if isinstance(reply.get("usageMetadata"), dict):
            self.usage = reply["usageMetadata"]
        candidates = reply.get("candidates")
        for place, candidate in enumerate(map(_dict, candidates if isinstance(candidates, list) else [])):
            index = candidate["index"] if isinstance(candidate.get("index"), int) else place
            self._parts.setdefault(index, []).extend(map(_dict, _parts(candidate.get("content"))))
            if isinstance(candidate.get("finishReason"), str):
                self._reasons[index] = candidate["finishReason"]

    def answers(self) -> Sequence[Answered]:
        """See ReplyReader."""
        return [Answered(_message(self._parts[index]), self._reasons.get(index)) for index in sorted(self._parts)]


def _message(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Texts together, thoughts as reasoning, calls of functions as such, all else as it is."""
    texts, thoughts, calls, others = list[str](), list[str](), list[dict[str, Any]](), list[Any]()
    for part in parts:
        if isinstance(part.get("functionCall"), dict):
            called = part["functionCall"]
            function = {"name": called.get("name"), "arguments": json.dumps(called.get("args"))}
            calls.append({"id": called.get("id"), "type": "function", "function": function})
        elif isinstance(part.get("text"), str):
            (thoughts if part.get("thought") is True else texts).append(part["text"])
        else:
            others.append(part)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    message |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return message | ({"tool_calls": calls} if calls else {}) | ({"parts": others} if others else {})


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"text": content}]
    parts = _dict(content).get("parts")
    return parts if isinstance(parts, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
