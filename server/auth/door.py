"""Turns away requests without any key before a byte of their body is read. Whether a key is good is seen later.

The framework parses a JSON body before the dependency that authenticates: without this, anyone could have it parse
megabytes.
"""

from __future__ import annotations

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth.dependencies import no_key
from server.browsers import reads_pages
from server.errors import error_response

_OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/redoc", "/sdk-events/cli", "/v3/api/sdk-events/cli")
_OPEN_FOLDERS = ("/docs/", "/static-offline-docs/")


class Door:
    """Answers 401 where a key is needed and none was sent. Pages have sessions, and see to that themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or _has_key(Headers(scope=scope)) or reads_pages(scope):
            await self._app(scope, receive, send)
            return
        await error_response(Request(scope), no_key())(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_FOLDERS)


def _has_key(headers: Headers) -> bool:
    scheme, credentials = get_authorization_scheme_param(headers.get("authorization"))
    return (scheme.lower() == "bearer" and bool(credentials)) or bool(headers.get("x-api-key"))
