"""`/keys`: the team's API keys; for operators those of all teams."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import func, select

from server.context import ContextDep
from server.pages.rendering import page
from server.pages.routing import PageRoute
from server.pages.signing_in import VisitorDep
from store.tables import ApiKeyRow, ModelRow, TeamRow

_MOST = 200

router = APIRouter(route_class=PageRoute)


@router.get("/keys")
async def keys(context: ContextDep, request: Request, visitor: VisitorDep) -> Response:
    """Keys, live ones first, and (for operators) teams with what they own. Secrets are kept nowhere."""
    sees_all = visitor.caller.is_admin
    query = (
        select(ApiKeyRow, TeamRow.name)
        .join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
        .order_by(ApiKeyRow.revoked_at.is_not(None), TeamRow.name, ApiKeyRow.created_at.desc())
        .limit(_MOST)
    )
    if not sees_all:
        query = query.where(ApiKeyRow.team_id == visitor.caller.team_id)
    num_models = select(func.count()).where(ModelRow.team_id == TeamRow.id).scalar_subquery()
    num_keys = (
        select(func.count()).where(ApiKeyRow.team_id == TeamRow.id, ApiKeyRow.revoked_at.is_(None)).scalar_subquery()
    )
    teams_query = select(TeamRow.name, TeamRow.created_at, num_models, num_keys).order_by(TeamRow.name).limit(_MOST)
    async with context.database.session() as session:
        rows = (await session.execute(query)).all()
        teams = (await session.execute(teams_query)).all() if sees_all else []
    return page(request, "keys.html", visitor, keys=rows, teams=teams, sees_all=sees_all, most=_MOST)
