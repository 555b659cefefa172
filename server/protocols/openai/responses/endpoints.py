"""`POST /responses`, under both spellings of its base URL."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.http.picture_bodies import UPLOAD_WITH_PICTURES
from server.http.routing import KeyedRouter
from server.http.sampling_key import SamplingKeyDep
from server.protocols.openai.responses.answering import own_response
from server.protocols.openai.responses.schemas import AnyResponse
from server.protocols.openai.responses.upstream import vendors_response
from server.protocols.openai.shared.routing import OpenAISamplingRoute
from server.upstreams.targets import find_either
from server.upstreams.types import UpstreamTarget

router = KeyedRouter(tags=["gateway"], route_class=OpenAISamplingRoute)

RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A response, or with `stream` server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.post("/responses", responses=RESPONSE, dependencies=[Depends(UPLOAD_WITH_PICTURES)])
@router.post("/v1/responses", responses=RESPONSE, include_in_schema=False, dependencies=[Depends(UPLOAD_WITH_PICTURES)])
async def create_response(context: ContextDep, key: SamplingKeyDep, request: Request, body: AnyResponse) -> Response:
    """OpenAI's responses, of a model of this server or of another vendor's."""
    target = await find_either(context.sampling, key, body.model, body.checkpoint, "openai", "/responses")
    if isinstance(target, UpstreamTarget):
        return await vendors_response(context, request, target, body)
    return await own_response(context, request, target, body)
