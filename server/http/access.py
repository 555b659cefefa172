"""Who may call a route: decided by `server.http.routing.KeyedRoute` before it reads a byte of the request's body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from wire.errors import Unauthenticated

_bearer = HTTPBearer(auto_error=False, description="An API key from `headway keys create`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)
_SPELLINGS = ("x-api-key", "x-goog-api-key")
"""Headers in which a key stands alone, as the clients of Anthropic and of Gemini send it."""


async def _described(
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _header: Annotated[str | None, Depends(_header)],
) -> None:
    """For the OpenAPI document: the ways to send a key."""


DescribedKey = Annotated[None, Depends(_described)]


class Access(ABC):
    """A dependency that also admits: its value is what `admit` found out."""

    opens_body: ClassVar[bool] = True
    """Whether the body may be read once it has admitted. If not, the endpoint authenticates and calls `open_body`."""

    @abstractmethod
    async def admit(self, request: Request) -> None:
        """Raises Unauthenticated or Forbidden. Reads the head of the request alone."""


class Anybody(Access):
    """No key is asked for, and the body is at most `Limits.open_body_bytes` long."""

    async def admit(self, request: Request) -> None:
        pass

    async def __call__(self) -> None:
        """See the class."""


ANYBODY = Depends(Anybody())
"""For the few routes that need no key; `tests/contract/test_nothing_before_the_key.py` names them."""


def sent_key(request: HTTPConnection) -> str:
    """The key of a request or a websocket, not yet checked. Raises Unauthenticated where there is none."""
    scheme, credentials = get_authorization_scheme_param(request.headers.get("authorization"))
    key = credentials if scheme.lower() == "bearer" and credentials else None
    key = key or next(filter(None, map(request.headers.get, _SPELLINGS)), None)
    if not key:
        raise Unauthenticated("no API key: send 'Authorization: Bearer <key>' (the SDK takes it from HUD_API_KEY)")
    return key
