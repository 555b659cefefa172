"""Creates, rotates and revokes keys. A caller cannot grant scopes or models that its own key lacks."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.principals.callers import Caller
from server.principals.roles import ROLES, Role, Scope
from store.tables import ApiKeyRow
from wire.errors import Conflict, Forbidden, InvalidRequest

KEY_PREFIX = "hw_"
SHOWN_CHARACTERS = 10


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key shall allow. `scopes`: fewer than the role's (None: all of them); `model_ids`: these models alone."""

    name: str
    role: Role
    scopes: frozenset[Scope] | None = None
    model_ids: frozenset[UUID] | None = None
    expires_at: datetime | None = None

    @property
    def effective(self) -> frozenset[Scope]:
        """The scopes that the key gets. Raises InvalidRequest for one that its role has not."""
        scopes = ROLES[self.role] if self.scopes is None else self.scopes
        if beyond := scopes - ROLES[self.role]:
            raise InvalidRequest(f"the role {self.role} has no scope {', '.join(sorted(beyond))}; choose another role")
        if not scopes:
            raise InvalidRequest("scopes is empty: such a key would open nothing")
        return scopes


async def issue(
    session: AsyncSession, team_id: UUID, grant: Grant, actor: Actor, *, replaces_id: UUID | None = None
) -> tuple[str, ApiKeyRow]:
    """A new key and its row. The key is returned and kept nowhere. Raises InvalidRequest for what cannot be granted."""
    now = await session.scalar(select(func.clock_timestamp()))
    if grant.expires_at is not None and now is not None and grant.expires_at <= now:
        raise InvalidRequest(f"expires_at is {grant.expires_at:%Y-%m-%d %H:%M %Z}, which is over already")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    row = ApiKeyRow(
        team_id=team_id,
        name=grant.name,
        prefix=key[:SHOWN_CHARACTERS],
        key_hash=hashlib.sha256(key.encode()).digest(),
        role=grant.role,
        scopes=sorted(grant.effective),
        model_ids=None if grant.model_ids is None else sorted(grant.model_ids),
        expires_at=grant.expires_at,
        replaces_id=replaces_id,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    action = "create_key" if replaces_id is None else "rotate_key"
    replaced = {} if replaces_id is None else {"replaces": str(replaces_id)}
    record(
        session,
        actor,
        action,
        team_id=team_id,
        subject_id=row.id,
        name=row.name,
        role=row.role,
        scopes=row.scopes,
        **replaced,
    )
    return key, row


async def rotate(session: AsyncSession, row: ApiKeyRow, actor: Actor, grace_s: float) -> tuple[str, ApiKeyRow]:
    """A new key that allows what this one does; the old one works for `grace_s` more. Raises Conflict for a key that is
    revoked, or was rotated before."""
    await session.refresh(row, with_for_update=True)
    now = await session.scalar(select(func.clock_timestamp()))
    assert now is not None
    if row.revoked_at is not None:
        raise Conflict(f"the key {row.prefix}… was revoked; make a new one instead")
    successor = await session.scalar(select(ApiKeyRow.prefix).where(ApiKeyRow.replaces_id == row.id))
    if successor is not None:
        raise Conflict(f"the key {row.prefix}… was rotated already, to {successor}…; rotate that one")
    key, new = await issue(session, row.team_id, _same(row, now), actor, replaces_id=row.id)
    ends = now + timedelta(seconds=grace_s)
    row.expires_at = ends if row.expires_at is None else min(ends, row.expires_at)
    await session.flush()
    return key, new


async def revoke(session: AsyncSession, row: ApiKeyRow, actor: Actor) -> None:
    """From now on requests with it are refused."""
    if row.revoked_at is None:
        row.revoked_at = await session.scalar(select(func.clock_timestamp()))
        record(session, actor, "revoke_key", team_id=row.team_id, subject_id=row.id, name=row.name)
    await session.flush()


def refuse_beyond(caller: Caller, scopes: frozenset[str], model_ids: frozenset[UUID] | None) -> None:
    """Raises Forbidden where a key would allow, or allows, more than the caller's own."""
    if beyond := scopes - caller.scopes:
        raise Forbidden(
            f"that key has the scope {', '.join(sorted(beyond))}, which yours has not; who has it can give or take it"
        )
    if caller.model_ids is not None and (model_ids is None or not model_ids <= caller.model_ids):
        raise Forbidden("that key opens models which yours does not open; use a key for the whole team")


def _same(row: ApiKeyRow, now: datetime) -> Grant:
    """What a key allows; one that had an end gets the same span again."""
    expires_at = None if row.expires_at is None else now + (row.expires_at - row.created_at)
    models = None if row.model_ids is None else frozenset(row.model_ids)
    return Grant(row.name, row.role, frozenset(row.scopes), models, expires_at)  # pyright: ignore[reportArgumentType]
