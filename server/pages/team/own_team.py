"""`/team`: what the visitor's own team uses, and its quotas, for all of its members."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from server.http.context import ContextDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from server.pages.team.team_page import quota_lines
from server.team import service

router = PageRouter()


@router.get("/team")
async def own_team(context: ContextDep, request: Request, visitor: VisitorDep) -> Response:
    """The team of the key that is signed in."""
    async with context.database.session() as session:
        row = await service.get_team(session, str(visitor.caller.team_id))
        team = await service.describe_team(session, row)
    return page(request, "team/own.html", visitor, team=team, lines=quota_lines(team))
