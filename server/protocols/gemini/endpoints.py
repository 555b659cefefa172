"""`POST /v1beta/models/{upstream}:generateContent` and `:streamGenerateContent`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from server.http.context import Context, ContextDep
from server.http.json_objects import sent_object
from server.http.request_body import UPLOAD
from server.http.rollouts import rollout_of
from server.http.routing import KeyedRouter
from server.http.sampling_key import SamplingKeyDep
from server.http.vendor_replies import ask_vendor, data_event
from server.protocols.gemini.reading import ContentReader, as_messages, declared_tools
from server.protocols.gemini.routing import GeminiRoute
from server.sampling.admission import SamplingKey
from server.upstreams.targets import find_upstream, vendors_body
from server.upstreams.types import UpstreamCall
from wire.errors import InvalidRequest

router = KeyedRouter(tags=["gateway"], route_class=GeminiRoute)

_KEY_HEADER = ("x-goog-api-key", "")
VENDORS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the vendor answered: JSON, or server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class ContentRequest(BaseModel):
    """A request for content. All else is the vendor's business, and sent on as it is."""

    model_config = ConfigDict(extra="allow")

    contents: Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1)]


@router.post("/v1beta/models/{upstream}:generateContent", responses=VENDORS, dependencies=[Depends(UPLOAD)])
async def generate_content(
    context: ContextDep, key: SamplingKeyDep, request: Request, body: ContentRequest, upstream: str
) -> Response:
    """Content of another vendor's model, in Gemini's API."""
    return await _generate(context, key, request, body, upstream, "generateContent")


@router.post("/v1beta/models/{upstream}:streamGenerateContent", responses=VENDORS, dependencies=[Depends(UPLOAD)])
async def stream_generate_content(
    context: ContextDep, key: SamplingKeyDep, request: Request, body: ContentRequest, upstream: str
) -> Response:
    """The same as server-sent events: with `?alt=sse`, as Gemini's clients ask for them."""
    if request.query_params.get("alt") != "sse":
        raise InvalidRequest("streams are server-sent events here: add ?alt=sse, or use generateContent", param="alt")
    return await _generate(context, key, request, body, upstream, "streamGenerateContent")


async def _generate(
    context: Context, key: SamplingKey, request: Request, body: ContentRequest, model: str, method: str
) -> Response:
    target = await find_upstream(context.sampling, key, model, "gemini", f"/v1beta/models/MODEL:{method}")
    sent = await sent_object(request)
    settings = sent.get("generationConfig")
    streams = method == "streamGenerateContent"
    call = UpstreamCall(
        path=f"/v1beta/models/{target.upstream.model}:{method}",
        query={"alt": "sse"} if streams else {},
        headers={},
        key_header=_KEY_HEADER,
        body=vendors_body(target, sent),
        streams=streams,
        reader=ContentReader(),
        tools=declared_tools(sent),
        messages=as_messages(sent, body.contents),
        settings=settings if isinstance(settings, dict) else {},
        rollout=await rollout_of(request),
        num_bytes=len(await request.body()),
    )
    return await ask_vendor(context, request, target, call, data_event)
