"""Rollouts whose texts cannot be searched yet, and their texts, once they were read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.words import as_tsvector

MOST_TEXT = 100_000
"""Characters of a rollout that are searched: as many of its beginning as of its end."""

# The newest first: these are looked for. One that runs has more to say, and is read when nothing came for a while.
_UNREAD = """
    select t.team_id, t.id, t.last_activity_at from traces t
    where t.is_unread and t.last_activity_at < clock_timestamp() - make_interval(
        secs => case when t.status is null and t.timed_out_at is null then %(quiet_s)s else %(settle_s)s end)
    order by t.created_at desc limit %(limit)s
"""
# The trace is locked first, as whoever deletes it does. What came meanwhile leaves it unread.
_KEEP = """
    with read as (
        update traces set text_read_until = %(until)s where team_id = %(team_id)s and id = %(id)s returning team_id, id
    )
    insert into trace_texts (team_id, trace_id, text, words)
    select team_id, id, %(text)s, %(words)s::tsvector from read
    on conflict (team_id, trace_id) do update set text = excluded.text, words = excluded.words
    where trace_texts.text <> excluded.text
"""
_TEXTS = "select trace_id, text from trace_texts where team_id = %(team_id)s and trace_id = any(%(ids)s)"


@dataclass(frozen=True, slots=True)
class UnreadTrace:
    """A rollout to be read, as of `last_activity_at`."""

    team_id: UUID
    id: UUID
    last_activity_at: datetime


async def unread_traces(
    connection: AsyncConnection, limit: int, *, settle_s: float = 2.0, quiet_s: float = 30.0
) -> list[UnreadTrace]:
    """Of all teams. settle_s: for so long nothing came of a rollout that has ended, quiet_s: of one that runs."""
    found = await connection.execute(_UNREAD, {"limit": limit, "settle_s": settle_s, "quiet_s": quiet_s})
    return [UnreadTrace(*row) for row in await found.fetchall()]


async def keep_text(connection: AsyncConnection, trace: UnreadTrace, text: str) -> None:
    """What was said in a rollout, storable. Nothing, where it has been deleted."""
    text = bounded(text)
    values = {"team_id": trace.team_id, "id": trace.id, "until": trace.last_activity_at}
    await connection.execute(_KEEP, {**values, "text": text, "words": as_tsvector(text)})


async def read_texts(connection: AsyncConnection, team_id: UUID, trace_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Texts of those that were read, by trace."""
    found = await connection.execute(_TEXTS, {"team_id": team_id, "ids": list(trace_ids)})
    return {trace_id: text async for trace_id, text in found}


def bounded(text: str) -> str:
    """The text, or as much of its beginning and of its end as is searched."""
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2
    return f"{text[:half]}\n…\n{text[-half:]}"
