"""Responses of another vendor's model: sent on as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.json_objects import sent_object
from server.http.rollouts import rollout_of
from server.http.vendor_replies import ask_vendor, named_event
from server.protocols.openai.responses.schemas import AnyResponse
from server.protocols.openai.upstream_chats import KEY_HEADER
from server.upstreams.targets import vendors_body
from server.upstreams.types import Answered, UpstreamCall, UpstreamTarget
from wire.errors import InvalidRequest

_SETTINGS = ("temperature", "top_p", "max_output_tokens", "reasoning", "previous_response_id")
_ENDS = ("response.completed", "response.incomplete", "response.failed")


async def vendors_response(context: Context, request: Request, target: UpstreamTarget, body: AnyResponse) -> Response:
    """The vendor's answer. Raises InvalidRequest for one that would be fetched later."""
    if body.background:
        raise InvalidRequest(
            "background responses are fetched later by an id, which this server does not offer; leave background out",
            param="background",
        )
    sent = await sent_object(request)
    call = UpstreamCall(
        path="/responses",
        query={},
        headers={},
        key_header=KEY_HEADER,
        body=vendors_body(target, sent, model=target.upstream.model),
        streams=bool(body.stream),
        reader=ResponsesReader(),
        tools=sent["tools"] if isinstance(sent.get("tools"), list) else [],
        messages=_messages(sent),
        settings={name: sent[name] for name in _SETTINGS if sent.get(name) is not None},
        rollout=await rollout_of(request),
        num_bytes=len(await request.body()),
    )
    return await ask_vendor(context, request, target, call, named_event)


def _messages(sent: dict[str, Any]) -> list[Any]:
    asked = sent.get("input")
    system = [{"role": "system", "content": sent["instructions"]}] if isinstance(sent.get("instructions"), str) else []
    return [*system, *(asked if isinstance(asked, list) else [{"role": "user", "content": asked}])]


class ResponsesReader:
    """Reads responses; of a stream the last event, which has the whole of it."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.usage: dict[str, Any] | None = None
        self.is_complete = False
        self._message: dict[str, Any] | None = None
        self._status: str | None = None

    def whole(self, reply: Any) -> None:
        """See ReplyReader."""
        if not isinstance(reply, dict):
            return
        self.id = reply["id"] if isinstance(reply.get("id"), str) else None
        self.usage = reply["usage"] if isinstance(reply.get("usage"), dict) else None
        self._status = reply["status"] if isinstance(reply.get("status"), str) else None
        output = reply.get("output")
        self._message = _message([one for one in output if isinstance(one, dict)] if isinstance(output, list) else [])
        self.is_complete = True

    def event(self, data: Any) -> None:
        """See ReplyReader."""
        if isinstance(data, dict) and data.get("type") in _ENDS:
            self.whole(data.get("response"))

    def answers(self) -> Sequence[Answered]:
        """See ReplyReader."""
        return [] if self._message is None else [Answered(self._message, self._status)]


def _message(output: list[dict[str, Any]]) -> dict[str, Any]:
    """As a message of a chat: texts together, calls of functions as such, all else as it is."""
    texts, calls, others = list[str](), list[dict[str, Any]](), list[Any]()
    for item in output:
        if item.get("type") == "message" and isinstance(item.get("content"), list):
            parts = [part for part in item["content"] if isinstance(part, dict)]
            texts += [part["text"] for part in parts if isinstance(part.get("text"), str)]
        elif item.get("type") == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
        else:
            others.append(item)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    return message | ({"tool_calls": calls} if calls else {}) | ({"items": others} if others else {})
