"""Removing a team in an operator's browser: a page that counts what it has, and the form on it."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.audit.recording import actor_of
from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.team import service
from server.team.removal import remove_team
from server.team.removing import contents_of_team
from server.values.whole_numbers import whole_number
from wire.errors import Conflict, HeadwayError, NotFound

router = PageRouter()


@router.get("/teams/{team_id}/remove")
async def ask(context: ContextDep, request: Request, visitor: VisitorDep, team_id: UUID) -> Response:
    """What goes with the team."""
    return await _ask(context, request, visitor, team_id)


@router.post("/forms/teams/{team_id}/remove")
async def remove(context: ContextDep, request: Request, visitor: VisitorDep, team_id: UUID) -> Response:
    """Remove it, if its name was typed, and it has what the page said."""
    fields = await submitted(request, visitor)
    visitor.caller.require("admin")
    models, runs = (whole_number(fields.get(name, "")) for name in ("models", "runs"))
    try:
        service.refuse_own_team(team_id, visitor.caller.team_id)
        async with context.database.session() as session:
            name = (await service.get_team(session, str(team_id))).name
        if fields.get("name", "").strip() != name:
            raise Conflict(f"type the team's name, {name}, to remove it")
        await remove_team(context.database, str(team_id), models, runs, actor_of(visitor.caller))
    except NotFound:
        raise
    except HeadwayError as error:
        return await _ask(context, request, visitor, team_id, error)
    return RedirectResponse("/keys", 303)


async def _ask(
    context: Context, request: Request, visitor: Visitor, team_id: UUID, error: HeadwayError | None = None
) -> Response:
    visitor.caller.require("admin")
    async with context.database.session() as session:
        team = await service.get_team(session, str(team_id))
        found = await contents_of_team(session, team)
    return page(request, "team/remove.html", visitor, error=error, team=team, found=found)
