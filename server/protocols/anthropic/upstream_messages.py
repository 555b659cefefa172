"""Messages of another vendor's model: sent on as they are."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.http.context import Context
from server.http.json_objects import sent_object
from server.http.rollouts import rollout_of
from server.http.vendor_replies import ask_vendor, named_event, plain_query, vendor_headers
from server.protocols.anthropic.reading import MessageReader
from server.protocols.anthropic.schemas import AnyMessages
from server.upstreams.targets import vendors_body
from server.upstreams.types import UpstreamCall, UpstreamTarget

_KEY_HEADER = ("x-api-key", "")
_VERSION, _OLDEST_VERSION = "anthropic-version", "2023-06-01"
_SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", "stop_sequences", "thinking")


async def vendors_message(context: Context, request: Request, target: UpstreamTarget, body: AnyMessages) -> Response:
    """The vendor's message."""
    call = await _call(request, target, body, "/v1/messages", answers=True)
    return await ask_vendor(context, request, target, call, named_event)


async def vendors_count(context: Context, request: Request, target: UpstreamTarget, body: AnyMessages) -> Response:
    """The vendor's count of tokens, of which nothing is recorded."""
    call = await _call(request, target, body, "/v1/messages/count_tokens", answers=False)
    return await ask_vendor(context, request, target, call, named_event)


async def _call(
    request: Request, target: UpstreamTarget, body: AnyMessages, path: str, *, answers: bool
) -> UpstreamCall:
    sent = await sent_object(request)
    return UpstreamCall(
        path=path,
        query=plain_query(request, ("beta",)),
        headers={_VERSION: _OLDEST_VERSION, **vendor_headers(request, (_VERSION, "anthropic-beta"))},
        key_header=_KEY_HEADER,
        body=vendors_body(target, sent, model=target.upstream.model),
        streams=answers and bool(body.stream),
        reader=MessageReader(),
        tools=sent["tools"] if isinstance(sent.get("tools"), list) else [],
        messages=[*([{"role": "system", "content": sent["system"]}] if sent.get("system") else []), *body.messages],
        settings={name: sent[name] for name in _SETTINGS if sent.get(name) is not None},
        rollout=await rollout_of(request) if answers else None,
        num_bytes=len(await request.body()),
    )
