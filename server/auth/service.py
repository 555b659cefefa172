"""API keys: made once, kept only as SHA-256, looked up on every request."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import ApiKeyRow, TeamRow
from wire.errors import Conflict, NotFound, Unauthenticated

KEY_PREFIX = "hw_"
_SHOWN_CHARACTERS = 10


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request carries."""

    team_id: UUID
    key_id: UUID
    is_admin: bool


def key_hash(key: str) -> bytes:
    """What of a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


async def authenticate(session: AsyncSession, key: str) -> Caller:
    """The caller behind a key. Raises Unauthenticated for an unknown or revoked one."""
    row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.key_hash == key_hash(key)))
    if row is None or row.revoked_at is not None:
        raise refuse_key(known=row is not None)
    return Caller(row.team_id, row.id, row.is_admin)


def refuse_key(*, known: bool) -> Unauthenticated:
    """The refusal of a revoked key, or of an unknown one."""
    if known:
        return Unauthenticated("this API key was revoked; make another with 'headway keys create'")
    return Unauthenticated("unknown API key; make one with 'headway keys create'")


async def create_key(session: AsyncSession, team: str, name: str, *, is_admin: bool = False) -> str:
    """A new key for a team, which is made when it is not there yet. The key is returned and kept nowhere."""
    await session.execute(insert(TeamRow).values(name=team).on_conflict_do_nothing())
    team_id = (await session.scalars(select(TeamRow.id).where(TeamRow.name == team))).one()
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    shown = key[:_SHOWN_CHARACTERS]
    session.add(ApiKeyRow(team_id=team_id, name=name, prefix=shown, key_hash=key_hash(key), is_admin=is_admin))
    await session.flush()
    return key


async def list_keys(session: AsyncSession) -> list[tuple[ApiKeyRow, str]]:
    """Every key with its team's name, oldest first."""
    query = select(ApiKeyRow, TeamRow.name).join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
    return [(key, team) for key, team in await session.execute(query.order_by(ApiKeyRow.created_at))]


async def revoke_key(session: AsyncSession, reference: str) -> ApiKeyRow:
    """Revoke the key with this id, or the only one whose visible prefix this is.

    Raises NotFound, or Conflict when several keys share the prefix.
    """
    query = select(ApiKeyRow).where(ApiKeyRow.prefix == reference[:_SHOWN_CHARACTERS], ApiKeyRow.revoked_at.is_(None))
    if _is_uuid(reference):
        query = select(ApiKeyRow).where(ApiKeyRow.id == UUID(reference))
    rows = list(await session.scalars(query))
    if not rows:
        raise NotFound(f"there is no live key {reference!r}; see 'headway keys list'")
    if len(rows) > 1:
        raise Conflict(f"{len(rows)} keys begin with {reference!r}; give the id")
    rows[0].revoked_at = rows[0].revoked_at or await session.scalar(select(func.clock_timestamp()))
    await session.flush()
    return rows[0]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
