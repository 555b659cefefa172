"""Who calls, as FastAPI dependencies: `KeyDep` is the key as sent, `CallerDep` the team behind it.

`CallerDep` asks for the scope `read` where a request only reads (GET), and for `train` where it changes something. The
other dependencies are for routes about which that is not true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.auth.callers import Caller
from server.auth.roles import Scope
from server.auth.service import authenticate
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


async def any_caller(context: ContextDep, key: KeyDep) -> Caller:
    """The caller, authenticated, whatever the key's scopes."""
    async with context.database.session() as session:
        caller = await authenticate(session, key)
    context.key_uses.note(caller.key_id)
    return caller


AnyCallerDep = Annotated[Caller, Depends(any_caller)]


async def calling(request: Request, caller: AnyCallerDep) -> Caller:
    """The caller, who may read or, where the request changes something, train."""
    caller.require("read" if request.method in ("GET", "HEAD") else "train")
    return caller


def _with_one_of(*scopes: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    async def caller_with_scope(caller: AnyCallerDep) -> Caller:
        caller.require(*scopes)
        return caller

    return caller_with_scope


CallerDep = Annotated[Caller, Depends(calling)]
ModelUserDep = Annotated[Caller, Depends(_with_one_of("sample", "train", "read"))]
"""Looks models up: to read them, or to use them."""
ReporterDep = Annotated[Caller, Depends(_with_one_of("train", "sample"))]
"""Reports about rollouts."""
TeamAdminDep = Annotated[Caller, Depends(_with_one_of("keys"))]
AdminDep = Annotated[Caller, Depends(_with_one_of("admin"))]
