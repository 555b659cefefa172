"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response

from server.http.context import Context, ContextDep
from server.http.picture_bodies import UPLOAD_WITH_PICTURES
from server.http.routing import KeyedRouter
from server.http.sampling_key import SamplingKeyDep
from server.protocols.anthropic.messages import own_count, own_message
from server.protocols.anthropic.routing import AnthropicRoute
from server.protocols.anthropic.schemas import AnyMessages, TokenCount
from server.protocols.anthropic.upstream_messages import vendors_count, vendors_message
from server.sampling.admission import SamplingKey
from server.sampling.target import Target
from server.upstreams.targets import find_either
from server.upstreams.types import UpstreamTarget

router = KeyedRouter(tags=["gateway"], route_class=AnthropicRoute)

MESSAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A message, or with `stream` server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.post("/v1/messages", responses=MESSAGE, dependencies=[Depends(UPLOAD_WITH_PICTURES)])
async def create_message(context: ContextDep, key: SamplingKeyDep, request: Request, body: AnyMessages) -> Response:
    """Anthropic's messages, of a model of this server or of another vendor's."""
    target = await _target(context, key, body, "/v1/messages")
    if isinstance(target, UpstreamTarget):
        return await vendors_message(context, request, target, body)
    return await own_message(context, request, target, body)


@router.post("/v1/messages/count_tokens", response_model=TokenCount, dependencies=[Depends(UPLOAD_WITH_PICTURES)])
async def count_tokens(context: ContextDep, key: SamplingKeyDep, request: Request, body: AnyMessages) -> Response:
    """How many tokens such a request's prompt has."""
    target = await _target(context, key, body, "/v1/messages/count_tokens")
    if isinstance(target, UpstreamTarget):
        return await vendors_count(context, request, target, body)
    return JSONResponse((await own_count(context, request, target, body)).model_dump())


async def _target(context: Context, key: SamplingKey, body: AnyMessages, where: str) -> Target | UpstreamTarget:
    return await find_either(context.sampling, key, body.model, body.checkpoint, "anthropic", where)
