"""A key and the model that it asks for, with all that decides about a training call, in one statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from store.database import AsyncConnection

# The losses: what the newest trainer of the base announced, alive or not.
_FIND = """
    select
        k.revoked_at is not null as is_revoked, m.id as model_id, m.slug, b.slug as base_slug, b.info,
        (
            select t.losses from trainers t where t.base_id = b.id and not t.is_loading
            order by t.started_at desc limit 1
        ) as losses,
        k.team_id, b.id as base_id
    from api_keys k
    left join models m on m.id = %(model_id)s and (m.team_id is null or m.team_id = k.team_id)
    left join models b on b.id = m.base_id
    where k.key_hash = %(key_hash)s
"""


@dataclass(frozen=True, slots=True)
class Admission:
    """A key that is known, and the model as its team sees it.

    `model_id` and `slug` are None where there is no such model, `base_slug` where it is a base itself, `info` and
    `losses` before a trainer has loaded the base.
    """

    is_revoked: bool
    model_id: UUID | None
    slug: str | None
    base_slug: str | None
    info: Mapping[str, Any] | None
    losses: Mapping[str, Mapping[str, float | None]] | None
    team_id: UUID
    base_id: UUID | None


async def find_admission(connection: AsyncConnection, key_hash: bytes, model_id: UUID | None) -> Admission | None:
    """What there is behind a key and a model's id. None for an unknown key."""
    found = await connection.execute(_FIND, {"key_hash": key_hash, "model_id": model_id})
    row = await found.fetchone()
    return Admission(*row) if row else None
