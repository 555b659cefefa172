"""Chats with another vendor's model: sent on as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.json_objects import sent_object
from server.http.rollouts import rollout_of
from server.http.vendor_replies import ask_vendor, data_event
from server.protocols.openai.schemas import ChatRequest
from server.upstreams.targets import require_api, vendors_body
from server.upstreams.types import Answered, UpstreamCall, UpstreamTarget

KEY_HEADER = ("authorization", "Bearer ")
_SETTINGS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "n", "reasoning_effort")


async def vendors_chat(context: Context, request: Request, target: UpstreamTarget, body: ChatRequest) -> Response:
    """The vendor's answer. Raises ModelNotFound for a model of another API, InvalidRequest for fields of ours."""
    require_api(target, "openai", "chats")
    sent = await sent_object(request)
    call = UpstreamCall(
        path="/chat/completions",
        query={},
        headers={},
        key_header=KEY_HEADER,
        body=vendors_body(target, sent, model=target.upstream.model),
        streams=body.stream,
        reader=ChatReader(),
        tools=body.tools or [],
        messages=body.messages,
        settings={name: sent[name] for name in _SETTINGS if name in sent},
        rollout=await rollout_of(request),
        num_bytes=len(await request.body()),
    )
    return await ask_vendor(context, request, target, call, data_event)


class ChatReader:
    """Reads chat completions, and chunks of them."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.usage: dict[str, Any] | None = None
        self.is_complete = False
        self._messages = dict[int, dict[str, Any]]()
        self._reasons = dict[int, str]()
        self._calls = dict[int, dict[int, dict[str, Any]]]()

    def whole(self, reply: Any) -> None:
        """See ReplyReader."""
        self._note(reply)
        for choice in _choices(reply):
            index, message = _index(choice), choice.get("message")
            if isinstance(message, dict):
                self._messages[index] = {**message, "role": "assistant"}
            self._end(index, choice)

    def event(self, data: Any) -> None:
        """See ReplyReader."""
        self.is_complete = data is None
        self._note(data)
        for choice in _choices(data):
            index, delta = _index(choice), choice.get("delta")
            if isinstance(delta, dict):
                self._add(index, delta)
            self._end(index, choice)

    def answers(self) -> Sequence[Answered]:
        """See ReplyReader."""
        found = list[Answered]()
        for index in sorted(self._messages):
            message = self._messages[index]
            if calls := self._calls.get(index):
                message = {**message, "tool_calls": [calls[number] for number in sorted(calls)]}
            found.append(Answered(message, self._reasons.get(index)))
        return found

    def _note(self, reply: Any) -> None:
        if not isinstance(reply, dict):
            return
        if isinstance(reply.get("id"), str):
            self.id = reply["id"]
        if isinstance(reply.get("usage"), dict):
            self.usage = reply["usage"]

    def _end(self, index: int, choice: dict[str, Any]) -> None:
        if isinstance(choice.get("finish_reason"), str):
            self._reasons[index] = choice["finish_reason"]

    def _add(self, index: int, delta: dict[str, Any]) -> None:
        message = self._messages.setdefault(index, {"role": "assistant", "content": None})
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if isinstance(delta.get(name), str):
                message[name] = (message.get(name) or "") + delta[name]
        for call in delta.get("tool_calls") or []:
            if isinstance(call, dict):
                self._add_call(self._calls.setdefault(index, {}), call)

    def _add_call(self, calls: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
        begun = calls.setdefault(_index(piece), {"type": "function", "function": {"name": "", "arguments": ""}})
        if isinstance(piece.get("id"), str):
            begun["id"] = piece["id"]
        function = piece.get("function")
        for name in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(function.get(name), str):
                begun["function"][name] += function[name]


def _choices(reply: Any) -> list[dict[str, Any]]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _index(numbered: dict[str, Any]) -> int:
    return numbered["index"] if isinstance(numbered.get("index"), int) else 0
