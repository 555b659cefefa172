"""`/v2/team`: what a team sees of itself, and its keys."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Body

from server.audit.listing import list_events
from server.audit.types import Event
from server.auth.types import Key, KeyRequest, NewKey, RotateRequest
from server.http.authentication import CallerDep, TeamAdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.event_filters import EventFilterParams
from server.protocols.hud.shared.routing import HudRouter
from server.team import keys, service
from server.team.types import TeamWithUsage
from server.values.paging import Page

router = HudRouter(prefix="/v2/team", tags=["team"])


@router.get("")
async def get_team(context: ContextDep, caller: CallerDep) -> TeamWithUsage:
    """The key's team, its quotas, and what it uses of them."""
    async with context.database.session() as session:
        team = await service.get_team(session, str(caller.team_id))
        return await service.describe_team(session, team)


@router.get("/keys")
async def list_keys(
    context: ContextDep, caller: TeamAdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Key]:
    """The team's keys, oldest first."""
    async with context.database.session() as session:
        return await keys.list_keys(session, caller.team_id, cursor, limit)


@router.post("/keys", status_code=201)
async def create_key(context: ContextDep, caller: TeamAdminDep, body: KeyRequest) -> NewKey:
    """A new key of the team. The secret is shown this once."""
    async with context.database.session() as session:
        return await keys.create_key(session, caller, caller.team_id, body)


@router.post("/keys/{key_id}/rotate", status_code=201)
async def rotate_key(
    context: ContextDep, caller: TeamAdminDep, key_id: UUID, body: Annotated[RotateRequest | None, Body()] = None
) -> NewKey:
    """Another key that allows the same; the old one goes on working for a while."""
    async with context.database.session() as session:
        return await keys.rotate_key(session, caller, caller.team_id, key_id, body or RotateRequest())


@router.delete("/keys/{key_id}")
async def revoke_key(context: ContextDep, caller: TeamAdminDep, key_id: UUID) -> Key:
    """Refuse the key from now on."""
    async with context.database.session() as session:
        return await keys.revoke_key(session, caller, caller.team_id, key_id)


@router.get("/events")
async def events(
    context: ContextDep,
    caller: TeamAdminDep,
    wanted: EventFilterParams,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Event]:
    """The team's audit log, newest first; to a key for some models, what was done to these."""
    async with context.database.session() as session:
        return await list_events(session, caller.team_id, wanted, cursor, limit, model_ids=caller.model_ids)
