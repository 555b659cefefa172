"""Routes that parse the body with pydantic and call their endpoint, without the framework's dependency resolution.

The framework resolves dependencies anew for each request, parses its JSON into objects and then checks these: more work
than all that the gateway does before it asks a sampler. Here the body's bytes are checked as they are parsed: those of
large ones in the process that reads uploads, one at a time. Refusals read as they do elsewhere.
"""

from __future__ import annotations

from email.message import Message
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from server.http.context import Context
from server.http.disconnects import ClientDisconnected
from server.http.request_body import body_was_read
from server.http.routing import Handler, KeyedRoute
from server.http.sampling_key import sampling_key
from server.uploads.json_bodies import parse, parse_large

_APART_BYTES = 1024**2
"""More is parsed in another process."""
_NO_OBJECT = {"type": "model_attributes_type", "loc": ("body",), "msg": "", "input": None}


class DirectRoute(KeyedRoute):
    """Of endpoints that take `context`, `key`, `request`, a model as `body` and the parameters of the path, and return
    a Response."""

    def get_answer_handler(self) -> Handler:
        """See KeyedRoute."""
        endpoint: Any = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Any:
            context: Context = request.app.state.context
            try:
                await request.body()
            except ClientDisconnect:
                raise ClientDisconnected("the client hung up while it sent its request") from None
            body = await _parsed(context, request, await request.body(), model)
            body_was_read(request)
            return await endpoint(context, sampling_key(request), request, body, **request.path_params)

        return handle


async def _parsed(context: Context, request: Request, content: bytes, model: type[BaseModel]) -> BaseModel:
    if not _is_json(request.headers.get("content-type", "application/json")):
        raise RequestValidationError([_NO_OBJECT])
    if len(content) > _APART_BYTES:
        return await context.upload_parser.read(content, parse_large, model)
    return parse(content, model)


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
