"""`POST /v1/messages`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from server.http.context import ContextDep
from server.http.json_objects import sent_object
from server.http.request_body import UPLOAD
from server.http.rollouts import rollout_of
from server.http.routing import KeyedRouter
from server.http.sampling_key import SamplingKeyDep
from server.http.vendor_replies import ask_vendor, named_event, plain_query, vendor_headers
from server.protocols.anthropic.reading import MessageReader
from server.protocols.anthropic.routing import AnthropicRoute
from server.upstreams.targets import find_upstream, vendors_body
from server.upstreams.types import UpstreamCall

router = KeyedRouter(tags=["gateway"], route_class=AnthropicRoute)

_KEY_HEADER = ("x-api-key", "")
_VERSION, _OLDEST_VERSION = "anthropic-version", "2023-06-01"
_SETTINGS = ("temperature", "top_p", "top_k", "max_tokens", "stop_sequences", "thinking")
VENDORS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the vendor answered: a message, or with `stream` server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class MessagesRequest(BaseModel):
    """A request for a message. All else is the vendor's business, and sent on as it is."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=512)
    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1)]
    stream: bool | None = None


@router.post("/v1/messages", responses=VENDORS, dependencies=[Depends(UPLOAD)])
async def create_message(context: ContextDep, key: SamplingKeyDep, request: Request, body: MessagesRequest) -> Response:
    """A message of another vendor's model, in Anthropic's API."""
    target = await find_upstream(context.sampling, key, body.model, "anthropic", "/v1/messages")
    sent = await sent_object(request)
    call = UpstreamCall(
        path="/v1/messages",
        query=plain_query(request, ("beta",)),
        headers={_VERSION: _OLDEST_VERSION, **vendor_headers(request, (_VERSION, "anthropic-beta"))},
        key_header=_KEY_HEADER,
        body=vendors_body(target, sent, model=target.upstream.model),
        streams=bool(body.stream),
        reader=MessageReader(),
        tools=sent["tools"] if isinstance(sent.get("tools"), list) else [],
        messages=[*([{"role": "system", "content": sent["system"]}] if sent.get("system") else []), *body.messages],
        settings={name: sent[name] for name in _SETTINGS if sent.get(name) is not None},
        rollout=await rollout_of(request),
        num_bytes=len(await request.body()),
    )
    return await ask_vendor(context, request, target, call, named_event)
