"""Keys as the API shows and makes them: of one team, or (for operators) of all."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of
from server.auth.issuing import Grant, issue, refuse_beyond, revoke, rotate
from server.auth.spelling import tinker_spelling
from server.auth.types import Key, KeyRequest, NewKey, RotateRequest
from server.catalog import repository
from server.catalog.service import no_such_model
from server.principals.callers import Caller
from server.values.paging import Page, page_of
from store.tables import ApiKeyRow, TeamRow
from wire.errors import NotFound


async def list_keys(session: AsyncSession, team_id: UUID | None, cursor: str | None, limit: int) -> Page[Key]:
    """A team's keys, or (None) all, oldest first; without those that runners' agents get from servers."""
    query = select(ApiKeyRow, TeamRow.name).join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
    query = query.where(ApiKeyRow.runner_id.is_(None))
    if team_id is not None:
        query = query.where(ApiKeyRow.team_id == team_id)
    rows, following = await page_of(session, query, (ApiKeyRow.created_at, ApiKeyRow.id), cursor, limit)
    return Page(items=[Key(**_facts(key, team)) for key, team in rows], next_cursor=following)


async def create_key(session: AsyncSession, caller: Caller, team_id: UUID, request: KeyRequest) -> NewKey:
    """A new key of a team. Raises NotFound for a model that the team does not see, Forbidden for more than the caller
    has."""
    grant = await grant_of(session, team_id, request)
    refuse_beyond(caller, grant.effective, grant.model_ids)
    key, row = await issue(session, team_id, grant, actor_of(caller))
    return await _shown_once(session, key, row)


async def grant_of(session: AsyncSession, team_id: UUID, request: KeyRequest) -> Grant:
    """What a request asks for. Raises NotFound for a model that the team does not see."""
    scopes = None if request.scopes is None else frozenset(request.scopes)
    models = await _models(session, team_id, request.models)
    return Grant(request.name, request.role, scopes, models, request.expires_at)


async def rotate_key(
    session: AsyncSession, caller: Caller, team_id: UUID | None, key_id: UUID, request: RotateRequest
) -> NewKey:
    """Another key that allows the same; the old one ends after the grace period."""
    row = await _find(session, caller, team_id, key_id)
    key, new = await rotate(session, row, actor_of(caller), request.grace_s)
    return await _shown_once(session, key, new)


async def revoke_key(session: AsyncSession, caller: Caller, team_id: UUID | None, key_id: UUID) -> Key:
    """The key is refused from now on."""
    row = await _find(session, caller, team_id, key_id)
    await revoke(session, row, actor_of(caller))
    return Key(**_facts(row, await _team_name(session, row.team_id)))


async def _find(session: AsyncSession, caller: Caller, team_id: UUID | None, key_id: UUID) -> ApiKeyRow:
    """A team's key, or (None) any, which allows no more than the caller's."""
    row = await session.get(ApiKeyRow, key_id)
    if row is None or team_id not in (None, row.team_id) or row.runner_id is not None:
        raise NotFound(f"there is no key {key_id}")
    refuse_beyond(caller, frozenset(row.scopes), None if row.model_ids is None else frozenset(row.model_ids))
    return row


async def _models(session: AsyncSession, team_id: UUID, references: list[str] | None) -> frozenset[UUID] | None:
    if references is None:
        return None
    found = set[UUID]()
    for reference in references:
        model = await repository.find_model(session, team_id, reference)
        if model is None:
            raise no_such_model(reference)
        found.add(model[0].id)
    return frozenset(found)


async def _shown_once(session: AsyncSession, key: str, row: ApiKeyRow) -> NewKey:
    return NewKey(**_facts(row, await _team_name(session, row.team_id)), key=key, tinker_key=tinker_spelling(key))


async def _team_name(session: AsyncSession, team_id: UUID) -> str:
    return (await session.get_one(TeamRow, team_id)).name


def _facts(row: ApiKeyRow, team: str) -> dict[str, Any]:
    same = ("id", "team_id", "name", "prefix", "role", "scopes", "model_ids", "created_at", "expires_at")
    more = ("last_used_at", "revoked_at", "replaces_id")
    return {**{name: getattr(row, name) for name in (*same, *more)}, "team": team}
