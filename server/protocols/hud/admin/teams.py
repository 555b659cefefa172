"""`/v2/admin/teams`, and the audit log of all of them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Query

from server.audit.listing import list_events
from server.audit.recording import actor_of
from server.audit.types import Event
from server.http.authentication import AdminDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.protocols.hud.shared.event_filters import EventFilterParams
from server.protocols.hud.shared.routing import HudRouter
from server.team import removing, service
from server.team.removal import remove_team
from server.team.types import Quotas, Team, TeamChange, TeamContents, TeamRequest, TeamWithUsage
from server.values.paging import Page

router = HudRouter(prefix="/v2/admin")

NumberParam = Annotated[int | None, Query(ge=0, le=2**31)]


@router.get("/teams")
async def list_teams(
    context: ContextDep, caller: AdminDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Team]:
    """All teams, oldest first."""
    async with context.database.session() as session:
        return await service.list_teams(session, cursor, limit)


@router.post("/teams", status_code=201)
async def create_team(context: ContextDep, caller: AdminDep, body: TeamRequest) -> TeamWithUsage:
    """A new team, which has no key yet."""
    async with context.database.session() as session:
        team = await service.create_team(session, body.name, body.quotas, actor_of(caller))
        return await service.describe_team(session, team)


@router.get("/teams/{team_id}")
async def get_team(context: ContextDep, caller: AdminDep, team_id: UUID) -> TeamWithUsage:
    """One team, its quotas, and what it uses of them."""
    async with context.database.session() as session:
        return await service.describe_team(session, await service.get_team(session, str(team_id)))


@router.patch("/teams/{team_id}")
async def change_team(context: ContextDep, caller: AdminDep, team_id: UUID, body: TeamChange) -> TeamWithUsage:
    """Rename it, set quotas (null lifts one), disable it (its keys are refused, what was accepted is finished) or
    enable it."""
    async with context.database.session() as session:
        team = await service.get_team(session, str(team_id))
        if body.disabled:
            service.refuse_own_team(team.id, caller.team_id)
        await service.change_team(session, team, body, actor_of(caller))
        return await service.describe_team(session, team)


@router.put("/teams/{team_id}/quotas")
async def set_quotas(context: ContextDep, caller: AdminDep, team_id: UUID, body: Quotas) -> TeamWithUsage:
    """Set the quotas that are named; null lifts one."""
    async with context.database.session() as session:
        team = await service.get_team(session, str(team_id))
        await service.change_team(session, team, TeamChange(quotas=body), actor_of(caller))
        return await service.describe_team(session, team)


@router.get("/teams/{team_id}/contents")
async def get_contents(context: ContextDep, caller: AdminDep, team_id: UUID) -> TeamContents:
    """What a team has, counted before somebody removes it."""
    async with context.database.session() as session:
        return await removing.contents_of_team(session, await service.get_team(session, str(team_id)))


@router.delete("/teams/{team_id}", status_code=204)
async def delete_team(
    context: ContextDep, caller: AdminDep, team_id: UUID, models: NumberParam = None, runs: NumberParam = None
) -> None:
    """Remove a team. One that has something is removed with it if `models` repeats how many models it has, and `runs`
    how many runs that live, which are cancelled; otherwise the refusal (409) counts what it has."""
    service.refuse_own_team(team_id, caller.team_id)
    await remove_team(context.database, str(team_id), models, runs, actor_of(caller))


@router.get("/events")
async def events(
    context: ContextDep,
    caller: AdminDep,
    wanted: EventFilterParams,
    team_id: UUID | None = None,
    cursor: CursorParam = None,
    limit: LimitParam = DEFAULT_LIMIT,
) -> Page[Event]:
    """The audit log, newest first."""
    async with context.database.session() as session:
        return await list_events(session, team_id, wanted, cursor, limit, model_ids=caller.model_ids)
