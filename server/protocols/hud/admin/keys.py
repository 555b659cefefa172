"""`/v2/admin/keys`: keys of all teams."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Body

from server.auth.types import Key, KeyRequest, NewKey, RotateRequest
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.routing import HudRouter
from server.team import keys, service
from server.values.paging import Page


class TeamKeyRequest(KeyRequest):
    """A new key for this team."""

    team_id: UUID


router = HudRouter(prefix="/v2/admin")


@router.get("/keys")
async def list_keys(
    context: ContextDep,
    caller: AdminDep,
    team_id: UUID | None = None,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Key]:
    """All keys, or those of one team, oldest first."""
    async with context.database.session() as session:
        return await keys.list_keys(session, team_id, cursor, limit)


@router.post("/keys", status_code=201)
async def create_key(context: ContextDep, caller: AdminDep, body: TeamKeyRequest) -> NewKey:
    """A new key of any team. The secret is shown this once."""
    request = KeyRequest.model_validate(body.model_dump(exclude={"team_id"}))
    async with context.database.session() as session:
        team = await service.get_team(session, str(body.team_id))
        return await keys.create_key(session, caller, team.id, request)


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    context: ContextDep, caller: AdminDep, key_id: UUID, body: Annotated[RotateRequest | None, Body()] = None
) -> NewKey:
    """Another key that allows the same; the old one goes on working for a while."""
    async with context.database.session() as session:
        return await keys.rotate_key(session, caller, None, key_id, body or RotateRequest())


@router.delete("/keys/{key_id}")
async def revoke_key(context: ContextDep, caller: AdminDep, key_id: UUID) -> Key:
    """Refuse the key from now on."""
    async with context.database.session() as session:
        return await keys.revoke_key(session, caller, None, key_id)
