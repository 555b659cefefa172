"""`/keys`: the team's API keys, for those who manage them; for operators those of all teams."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from sqlalchemy import ColumnElement, Select, false, func, select, true

from server.http.context import ContextDep
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep
from store.listed_models import is_listed
from store.tables import ApiKeyRow, ModelRow, TeamRow

PAGE = 100
Number = Annotated[int, Query(ge=1, le=100_000)]

router = PageRouter()


@router.get("/keys")
async def keys(
    context: ContextDep,
    request: Request,
    visitor: VisitorDep,
    number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
    teams: Number = 1,
) -> Response:
    """Keys, live ones first, and (for operators) a page of the teams with what they own. Secrets are kept nowhere."""
    visitor.caller.require("keys")
    sees_all = visitor.caller.is_admin
    shown = true() if sees_all else ApiKeyRow.team_id == visitor.caller.team_id
    async with context.database.session() as session:
        total = await session.scalar(select(func.count()).select_from(ApiKeyRow).where(shown)) or 0
        rows = (await session.execute(_keys(shown).limit(PAGE).offset((number - 1) * PAGE))).all()
        owners, num_teams = [], 0
        if sees_all:
            owners = (await session.execute(_teams().limit(PAGE).offset((teams - 1) * PAGE))).all()
            num_teams = await session.scalar(select(func.count()).where(TeamRow.removed_at.is_(None))) or 0
    pages: dict[str, Any] = {
        "number": number,
        "num_pages": _pages(total),
        "team_number": teams,
        "num_team_pages": _pages(num_teams),
    }
    return page(request, "team/keys.html", visitor, keys=rows, teams=owners, sees_all=sees_all, **pages)


def _pages(total: int) -> int:
    return max(1, -(-total // PAGE))


def _keys(shown: ColumnElement[bool]) -> Select[ApiKeyRow, str, bool]:
    is_expired = func.coalesce(ApiKeyRow.expires_at <= func.clock_timestamp(), false())
    return (
        select(ApiKeyRow, TeamRow.name, is_expired)
        .join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
        .where(shown)
        .order_by(ApiKeyRow.revoked_at.is_not(None), TeamRow.name, ApiKeyRow.created_at.desc(), ApiKeyRow.id)
    )


def _teams() -> Select[*tuple[Any, ...]]:
    num_models = select(func.count()).where(ModelRow.team_id == TeamRow.id, is_listed()).scalar_subquery()
    live_keys = select(func.count()).where(ApiKeyRow.team_id == TeamRow.id, ApiKeyRow.revoked_at.is_(None))
    query = select(
        TeamRow.id, TeamRow.name, TeamRow.created_at, TeamRow.disabled_at, num_models, live_keys.scalar_subquery()
    )
    return query.where(TeamRow.removed_at.is_(None)).order_by(TeamRow.name)
