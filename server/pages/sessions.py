"""Sessions: started with an API key, ended by signing out, by age, or with the key."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.auth.service import Caller, authenticate
from store.tables import ApiKeyRow, EventRow, TeamRow, WebSessionRow

SESSION_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    caller: Caller
    team: str
    key_name: str
    csrf_token: str


async def start_session(session: AsyncSession, key: str) -> str:
    """The cookie of a new session. Raises Unauthenticated for a key that is not good."""
    caller = await authenticate(session, key)
    await session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at < func.clock_timestamp()))
    token = secrets.token_urlsafe(32)
    expires_at = func.clock_timestamp() + timedelta(seconds=SESSION_S)
    row = WebSessionRow(
        token_hash=_hash(token), key_id=caller.key_id, csrf_token=secrets.token_urlsafe(32), expires_at=expires_at
    )
    session.add(row)
    session.add(EventRow(team_id=caller.team_id, key_id=caller.key_id, action="login", subject_id=caller.key_id))
    await session.flush()
    return token


async def find_visitor(session: AsyncSession, token: str) -> Visitor | None:
    """Who has this cookie; None when the session or its key has ended."""
    query = (
        select(WebSessionRow, ApiKeyRow, TeamRow.name)
        .join(ApiKeyRow, ApiKeyRow.id == WebSessionRow.key_id)
        .join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
        .where(WebSessionRow.token_hash == _hash(token), WebSessionRow.expires_at > func.clock_timestamp())
        .where(ApiKeyRow.revoked_at.is_(None))
    )
    found = (await session.execute(query)).first()
    if found is None:
        return None
    row, key, team = found
    return Visitor(Caller(key.team_id, key.id, key.is_admin), team, key.name, row.csrf_token)


async def end_session(session: AsyncSession, token: str) -> None:
    """Forget this session, if it is one."""
    await session.execute(delete(WebSessionRow).where(WebSessionRow.token_hash == _hash(token)))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
