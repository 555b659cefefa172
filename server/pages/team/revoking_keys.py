"""Revoking a key in the browser: a page that says what it does, and the form on it."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.http.context import Context, ContextDep
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import KeyKeeperDep, VisitorDep
from server.pages.team.new_keys import find_key, teams_of
from server.team import keys
from wire.errors import HeadwayError

router = PageRouter()


@router.get("/keys/{key_id}/revoke")
async def confirm(context: ContextDep, request: Request, visitor: VisitorDep, key_id: UUID) -> Response:
    """What ends with it."""
    return await _ask(context, request, visitor, key_id)


@router.post("/forms/keys/{key_id}/revoke")
async def revoke(context: ContextDep, request: Request, visitor: KeyKeeperDep, key_id: UUID) -> Response:
    """Refuse it from now on. A refusal is shown on the page of the question."""
    await submitted(request, visitor)
    try:
        async with context.database.session() as session:
            await keys.revoke_key(session, visitor.caller, teams_of(visitor), key_id)
    except HeadwayError as error:
        return await _ask(context, request, visitor, key_id, error)
    return RedirectResponse("/keys", 303)


async def _ask(
    context: Context, request: Request, visitor: Visitor, key_id: UUID, error: HeadwayError | None = None
) -> Response:
    async with context.database.session() as session:
        row, team = await find_key(session, visitor, key_id)
    return page(request, "team/key_revoke.html", visitor, error=error, key=row, team=team)
