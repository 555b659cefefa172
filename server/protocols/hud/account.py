"""`GET /v2/auth/me`."""

from __future__ import annotations

from server.admin.types import Account
from server.http.authentication import AnyCallerDep
from server.protocols.hud.routing import HudRouter

router = HudRouter(prefix="/v2/auth", tags=["account"])


@router.get("/me")
async def me(caller: AnyCallerDep) -> Account:
    """The key's own id (a key is its user), its team's, and what it allows."""
    facts = {"user_id": str(caller.key_id), "team_id": str(caller.team_id), "team": caller.team, "role": caller.role}
    models = None if caller.model_ids is None else sorted(caller.model_ids)
    return Account.model_validate({**facts, "scopes": sorted(caller.scopes), "model_ids": models})
