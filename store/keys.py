"""What is known about a key, as a part of the statements that look up what it asks for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.database import AsyncConnection, AsyncDatabase

KEY = """
    select
        k.id as key_id, k.team_id, t.name as team, k.role, k.scopes, k.model_ids,
        k.revoked_at is not null as is_revoked,
        coalesce(k.expires_at <= clock_timestamp(), false) as is_expired,
        t.disabled_at is not null as team_is_disabled, k.runner_id
    from api_keys k join teams t on t.id = k.team_id
"""
"""SQL: keys with their teams, in the order of the fields of `KeyFacts`."""

_FIND = f"{KEY} where k.key_hash = :key_hash"
_FIND_ALONE = f"{KEY} where k.key_hash = %(key_hash)s"

_SEEN = """
    update api_keys set last_used_at = clock_timestamp()
    where id = any(%(key_ids)s) and (last_used_at is null or last_used_at < clock_timestamp() - interval '30 s')
"""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A key that is known. `model_ids`: the only models that it opens; None: all that its team sees. `runner_id`: it
    opens the rollouts alone that this runner holds."""

    key_id: UUID
    team_id: UUID
    team: str
    role: str
    scopes: list[str]
    model_ids: list[UUID] | None
    is_revoked: bool
    is_expired: bool
    team_is_disabled: bool
    runner_id: UUID | None = None


NUM_FACTS = 10


def key_facts(row: Any) -> KeyFacts:
    """From the first columns of a row."""
    return KeyFacts(*row[:NUM_FACTS])


async def find_key(session: AsyncSession, key_hash: bytes) -> KeyFacts | None:
    """The key with this hash."""
    row = (await session.execute(text(_FIND), {"key_hash": key_hash})).first()
    return key_facts(row) if row else None


async def find_key_alone(connection: AsyncConnection, key_hash: bytes) -> KeyFacts | None:
    """As `find_key`, for whoever needs no session: it costs a seventh there."""
    row = await (await connection.execute(_FIND_ALONE.encode(), {"key_hash": key_hash})).fetchone()
    return key_facts(row) if row else None


async def note_uses(database: AsyncDatabase, key_ids: Collection[UUID]) -> None:
    """That these keys were used just now."""
    async with database.connection() as connection:
        await connection.execute(_SEEN, {"key_ids": list(key_ids)})
