"""`GET /v2/auth/me`."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from server.auth.types import RoleName, ScopeName
from server.http.authentication import AnyCallerDep
from server.protocols.hud.shared.routing import HudRouter


class Account(BaseModel):
    """Whose key this is (a key is its user), and what it allows. `model_ids`: these models alone; null: the team's."""

    user_id: str
    team_id: str
    team: str
    role: RoleName
    scopes: list[ScopeName]
    model_ids: list[UUID] | None


router = HudRouter(prefix="/v2/auth", tags=["account"])


@router.get("/me")
async def me(caller: AnyCallerDep) -> Account:
    """The key's own id (a key is its user), its team's, and what it allows."""
    facts = {"user_id": str(caller.key_id), "team_id": str(caller.team_id), "team": caller.team, "role": caller.role}
    models = None if caller.model_ids is None else sorted(caller.model_ids)
    return Account.model_validate({**facts, "scopes": sorted(caller.scopes), "model_ids": models})
