"""Making and rotating keys in the browser.

The secret goes to the page that shows it in a cookie of a minute, which that page takes away: it is shown once, and a
reload neither shows it again nor makes another key.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from server.auth.service import key_hash
from server.auth.spelling import tinker_spelling
from server.auth.types import KeyRequest, NewKey, RotateRequest
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import KeyKeeperDep, VisitorDep
from server.principals.roles import MEANS, ROLES
from server.team import keys, service
from store.tables import ApiKeyRow
from wire.errors import HeadwayError, InvalidRequest, NotFound

COOKIE = "headway_new_key"
SHOWN_FOR_S = 60
_MADE = "/keys/made"

SPANS: dict[str, str] = {"": "never", "1": "in a day", "7": "in a week", "30": "in 30 days", "365": "in a year"}
"""Days until a key expires, in words."""
GRACES: dict[str, str] = {"0": "at once", "3600": "in an hour", "86400": "in a day", "604800": "in a week"}
"""Seconds that an old key goes on working."""

router = PageRouter()


@router.get("/keys/new")
async def ask_for_a_key(
    context: ContextDep, request: Request, visitor: VisitorDep, team: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """What a new key shall allow."""
    return await _ask(request, visitor, {"team": team})


@router.post("/forms/keys")
async def create(context: ContextDep, request: Request, visitor: KeyKeeperDep) -> Response:
    """Make it. A refusal is shown on the form, which keeps what was filled in."""
    fields = await submitted(request, visitor)
    try:
        body = _key_request(fields)
        async with context.database.session() as session:
            team_id = await _team_id(session, visitor, fields.get("team", ""))
            made = await keys.create_key(session, visitor.caller, team_id, body)
    except HeadwayError as error:
        return await _ask(request, visitor, fields, error)
    return _show_once(request, made)


@router.get("/keys/made")
async def show_once(context: ContextDep, request: Request, visitor: VisitorDep, key: UUID) -> Response:
    """A key that was just made: its secret this once."""
    visitor.caller.require("keys")
    async with context.database.session() as session:
        row = await _own_key(session, visitor, key)
    secret = request.cookies.get(COOKIE, "")
    is_its_own = key_hash(secret) == row.key_hash
    shown: dict[str, Any] = {"secret": None}
    if is_its_own:
        shown = {"secret": secret, "tinker_key": tinker_spelling(secret)}
    reply = page(request, "team/key_made.html", visitor, key=row, **shown)
    reply.delete_cookie(COOKIE, path=_MADE)
    return reply


@router.get("/keys/{key_id}/rotate")
async def ask_to_rotate(context: ContextDep, request: Request, visitor: VisitorDep, key_id: UUID) -> Response:
    """What rotating does, and for how long the old key works."""
    return await _ask_to_rotate(context, request, visitor, key_id)


@router.post("/forms/keys/{key_id}/rotate")
async def rotate(context: ContextDep, request: Request, visitor: KeyKeeperDep, key_id: UUID) -> Response:
    """Make its successor. A refusal is shown on the page of the question."""
    fields = await submitted(request, visitor)
    try:
        body = as_request(RotateRequest, {"grace_s": fields.get("grace_s", "")})
        async with context.database.session() as session:
            made = await keys.rotate_key(session, visitor.caller, teams_of(visitor), key_id, body)
    except HeadwayError as error:
        return await _ask_to_rotate(context, request, visitor, key_id, error)
    return _show_once(request, made)


def teams_of(visitor: Visitor) -> UUID | None:
    """Whose keys the visitor manages; None: those of all teams."""
    return None if visitor.caller.is_admin else visitor.caller.team_id


async def find_key(session: AsyncSession, visitor: Visitor, key_id: UUID) -> tuple[ApiKeyRow, str]:
    """A key that the visitor manages, and its team's name. Raises Forbidden and NotFound."""
    visitor.caller.require("keys")
    row = await _own_key(session, visitor, key_id)
    return row, (await service.get_team(session, str(row.team_id))).name


async def _own_key(session: AsyncSession, visitor: Visitor, key_id: UUID) -> ApiKeyRow:
    row = await session.get(ApiKeyRow, key_id)
    if row is None or teams_of(visitor) not in (None, row.team_id):
        raise NotFound(f"there is no key {key_id}")
    return row


async def _ask(
    request: Request, visitor: Visitor, fields: dict[str, str], error: HeadwayError | None = None
) -> Response:
    visitor.caller.require("keys")
    own = visitor.caller.scopes
    values: dict[str, Any] = {
        "fields": {"role": "member", **fields, "team": fields.get("team") or visitor.caller.team},
        "roles": {role: scopes for role, scopes in ROLES.items() if scopes <= own} or ROLES,
        "scopes": {scope: meaning for scope, meaning in MEANS.items() if scope in own},
        "spans": SPANS,
    }
    return page(request, "team/key_new.html", visitor, error=error, **values)


async def _ask_to_rotate(
    context: Context, request: Request, visitor: Visitor, key_id: UUID, error: HeadwayError | None = None
) -> Response:
    async with context.database.session() as session:
        row, team = await find_key(session, visitor, key_id)
    return page(request, "team/key_rotate.html", visitor, error=error, key=row, team=team, graces=GRACES)


def _key_request(fields: dict[str, str]) -> KeyRequest:
    scopes = [scope for scope in MEANS if f"scope_{scope}" in fields]
    models = [name.strip() for name in fields.get("models", "").split(",") if name.strip()]
    span = fields.get("expires", "")
    if span not in SPANS:
        raise InvalidRequest("expires must be one of those on the form; the API takes any time")
    values: dict[str, Any] = {
        "name": fields.get("name", ""),
        "role": fields.get("role", "member"),
        "scopes": scopes or None,
        "models": models or None,
        "expires_at": datetime.now(UTC) + timedelta(days=int(span)) if span else None,
    }
    return as_request(KeyRequest, values)


async def _team_id(session: AsyncSession, visitor: Visitor, team: str) -> UUID:
    if not visitor.caller.is_admin:
        return visitor.caller.team_id
    return (await service.get_team(session, team.strip() or visitor.caller.team)).id


def _show_once(request: Request, made: NewKey) -> Response:
    reply = RedirectResponse(f"{_MADE}?key={made.id}", 303)
    is_https = request.url.scheme == "https"
    options: dict[str, Any] = {"path": _MADE, "httponly": True, "samesite": "strict", "secure": is_https}
    reply.set_cookie(COOKIE, made.key, max_age=SHOWN_FOR_S, **options)
    return reply
