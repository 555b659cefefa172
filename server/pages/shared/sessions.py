"""Sessions: started with an API key, ended by signing out, by age, or with the key."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.auth.service import authenticate
from server.principals.callers import Caller, admitted
from store.keys import KEY, key_facts
from store.tables import WebSessionRow
from wire.errors import Forbidden, Unauthenticated

SESSION_S = 7 * 24 * 3600

_FIND = text(f"""
    select f.*, k.name, w.csrf_token
    from web_sessions w join ({KEY}) f on f.key_id = w.key_id join api_keys k on k.id = w.key_id
    where w.token_hash = :token_hash and w.expires_at > clock_timestamp()
""")  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    caller: Caller
    key_name: str
    csrf_token: str

    @property
    def may_train(self) -> bool:
        """Whether its key may change models."""
        return "train" in self.caller.scopes

    @property
    def may_see_keys(self) -> bool:
        """Whether its key manages keys."""
        return "keys" in self.caller.scopes


async def start_session(session: AsyncSession, key: str) -> str:
    """The cookie of a new session. Raises Unauthenticated for a key that is not good, Forbidden for one that may not
    read."""
    caller = await authenticate(session, key)
    caller.require("read")
    await session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at < func.clock_timestamp()))
    token = secrets.token_urlsafe(32)
    expires_at = func.clock_timestamp() + timedelta(seconds=SESSION_S)
    row = WebSessionRow(
        token_hash=_hash(token), key_id=caller.key_id, csrf_token=secrets.token_urlsafe(32), expires_at=expires_at
    )
    session.add(row)
    record(session, actor_of(caller), "login", team_id=caller.team_id, subject_id=caller.key_id)
    await session.flush()
    return token


async def find_visitor(session: AsyncSession, token: str) -> Visitor | None:
    """Who has this cookie; None when the session or its key has ended."""
    found = (await session.execute(_FIND, {"token_hash": _hash(token)})).first()
    if found is None:
        return None
    try:
        return Visitor(admitted(key_facts(found)), found.name, found.csrf_token)
    except (Unauthenticated, Forbidden):
        return None


async def end_session(session: AsyncSession, token: str) -> None:
    """Forget this session, if it is one."""
    await session.execute(delete(WebSessionRow).where(WebSessionRow.token_hash == _hash(token)))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
