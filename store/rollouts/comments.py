"""What people wrote about rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from store.database import AsyncConnection

_READ = """
    select trace_id, id, author, text, created_at from trace_comments
    where team_id = %(team_id)s and trace_id = any(%(ids)s) order by created_at, id
"""
_ADD = """
    insert into trace_comments (id, team_id, trace_id, author, text, created_at)
    values (%(id)s, %(team_id)s, %(trace_id)s, %(author)s, %(text)s, coalesce(%(at)s, clock_timestamp()))
"""


@dataclass(frozen=True, slots=True)
class Comment:
    """`author`: the name of the key that it was written with."""

    id: UUID
    author: str
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ImportedComment:
    """One that came with a rollout from elsewhere. `created_at` None: now."""

    author: str
    text: str
    created_at: datetime | None


async def read_comments(
    connection: AsyncConnection, team_id: UUID, trace_ids: Iterable[UUID]
) -> dict[UUID, list[Comment]]:
    """Of those rollouts that have any, the oldest first."""
    found = dict[UUID, list[Comment]]()
    async for trace_id, *facts in await connection.execute(_READ, {"team_id": team_id, "ids": list(trace_ids)}):
        found.setdefault(trace_id, []).append(Comment(*facts))
    return found


async def add_comments(
    connection: AsyncConnection, team_id: UUID, trace_id: UUID, comments: Sequence[ImportedComment]
) -> None:
    """In the transaction that inserts the rollout."""
    for one in comments:
        values = {"id": uuid4(), "author": one.author, "text": one.text, "at": one.created_at}
        await connection.execute(_ADD, {**values, "team_id": team_id, "trace_id": trace_id})
