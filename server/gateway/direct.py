"""Routes whose plain requests go straight to their endpoint: thousands a second pass here, and nothing else.

The framework resolves dependencies anew for each request, parses its JSON into objects and then checks these: more work
than all that the gateway does before it asks a sampler. Here the body's bytes are checked as they are parsed. Whatever
is not plain (another way to send a key, another content type, a body that is refused) goes the framework's way, so that
every refusal reads as it does elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from server.context import request_context
from server.hang_up import ClientGone

_BEARER = "bearer "


class DirectRoute(APIRoute):
    """Of endpoints that take `context`, `key`, `request` and a model as `body`, and return a Response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        by_framework, endpoint = super().get_route_handler(), self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            key = _plain_key(request)
            if key is None:
                return await by_framework(request)
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError:
                return await by_framework(request)
            except ClientDisconnect:
                raise ClientGone("the client hung up while it sent its request") from None
            return await endpoint(await request_context(request), key, request, body)

        return handle


def _plain_key(request: Request) -> str | None:
    """The key of a request that brings JSON and a bearer token, as nearly all do."""
    given = request.headers.get("authorization", "")
    if given[: len(_BEARER)].lower() != _BEARER or request.headers.get("content-type") != "application/json":
        return None
    return given[len(_BEARER) :].strip() or None
