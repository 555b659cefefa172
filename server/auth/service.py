"""API keys: made once, kept only as SHA-256, looked up on every request."""

from __future__ import annotations

import hashlib
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import COMMAND_LINE, record
from server.auth.issuing import SHOWN_CHARACTERS, Grant, issue
from server.auth.spelling import plain_spelling
from server.principals.callers import Caller, admitted
from server.principals.roles import Role
from store.keys import find_key
from store.tables import ApiKeyRow, TeamRow
from wire.errors import Conflict, NotFound


def key_hash(key: str) -> bytes:
    """What of a key is stored, in whichever spelling it was sent (`server.auth.spelling`)."""
    return hashlib.sha256(plain_spelling(key).encode("utf-8", "replace")).digest()


async def authenticate(session: AsyncSession, key: str) -> Caller:
    """The caller behind a key. Raises Unauthenticated, or Forbidden where its team is disabled."""
    return admitted(await find_key(session, key_hash(key)))


async def create_key(session: AsyncSession, team: str, name: str, *, role: Role = "member") -> str:
    """A new key for a team, which is made when it is not there yet. The key is returned and kept nowhere."""
    team_id = await ensure_team(session, team)
    key, _ = await issue(session, team_id, Grant(name, role), COMMAND_LINE)
    return key


async def ensure_team(session: AsyncSession, team: str) -> UUID:
    """The team of that name, made when it is not there yet."""
    made = insert(TeamRow).values(name=team).on_conflict_do_nothing().returning(TeamRow.id)
    team_id = await session.scalar(made)
    if team_id is not None:
        record(session, COMMAND_LINE, "create_team", team_id=team_id, subject_id=team_id, name=team)
        return team_id
    return (await session.scalars(select(TeamRow.id).where(TeamRow.name == team))).one()


async def list_keys(session: AsyncSession) -> list[tuple[ApiKeyRow, str]]:
    """Every key with its team's name, oldest first; without those that runners' agents get from servers."""
    query = select(ApiKeyRow, TeamRow.name).join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
    query = query.where(ApiKeyRow.runner_id.is_(None))
    return [(key, team) for key, team in await session.execute(query.order_by(ApiKeyRow.created_at))]


async def find_live_key(session: AsyncSession, reference: str) -> ApiKeyRow:
    """The key with this id, or the only live one whose visible prefix this is.

    Raises NotFound, or Conflict when several keys share the prefix.
    """
    prefix = plain_spelling(reference)[:SHOWN_CHARACTERS]
    query = select(ApiKeyRow).where(ApiKeyRow.prefix == prefix, ApiKeyRow.revoked_at.is_(None))
    if _is_uuid(reference):
        query = select(ApiKeyRow).where(ApiKeyRow.id == UUID(reference))
    rows = list(await session.scalars(query))
    if not rows:
        raise NotFound(f"there is no live key {reference!r}; see 'headway keys list'")
    if len(rows) > 1:
        raise Conflict(f"{len(rows)} keys begin with {reference!r}; give the id")
    return rows[0]


async def revoke_key(session: AsyncSession, reference: str) -> ApiKeyRow:
    """Revoke the key that `find_live_key` finds, and raises what that raises."""
    row = await find_live_key(session, reference)
    if row.revoked_at is None:
        row.revoked_at = await session.scalar(select(func.clock_timestamp()))
        record(session, COMMAND_LINE, "revoke_key", team_id=row.team_id, subject_id=row.id, name=row.name)
    await session.flush()
    return row


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
