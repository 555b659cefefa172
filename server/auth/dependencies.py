"""Who calls, as FastAPI dependencies: `KeyDep` is the key as sent, `CallerDep` the team behind it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.auth.service import Caller, authenticate
from server.context import ContextDep
from wire.errors import Unauthenticated

_bearer = HTTPBearer(auto_error=False, description="An API key from `headway keys create`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)


async def sent_key(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> str:
    """The key of a request, not yet checked. For routes that check it in the session they open anyway."""
    key = bearer.credentials if bearer else header
    if not key:
        raise no_key()
    return key


def no_key() -> Unauthenticated:
    """The refusal of a request that carries no key."""
    return Unauthenticated("no API key: send 'Authorization: Bearer <key>' (the SDK takes it from HUD_API_KEY)")


KeyDep = Annotated[str, Depends(sent_key)]


async def calling(context: ContextDep, key: KeyDep) -> Caller:
    """The caller, authenticated."""
    async with context.database.session() as session:
        return await authenticate(session, key)


CallerDep = Annotated[Caller, Depends(calling)]
