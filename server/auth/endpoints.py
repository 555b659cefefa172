"""`GET /v2/auth/me`."""

from __future__ import annotations

from fastapi import APIRouter

from server.auth.dependencies import CallerDep

router = APIRouter(prefix="/v2/auth", tags=["account"])


@router.get("/me")
async def me(caller: CallerDep) -> dict[str, str]:
    """The key's own id (a key is its user) and its team's."""
    return {"user_id": str(caller.key_id), "team_id": str(caller.team_id)}
