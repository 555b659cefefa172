"""What teams use of what quotas limit."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.listed_models import LISTED

TODAY = "(clock_timestamp() at time zone 'UTC')::date"
"""SQL: the day to which training tokens are counted."""

COUNT = f"""
    insert into training_usage as u (team_id, day, num_tokens)
    select team_id, {TODAY}, %(num_tokens)s from numbered where %(num_tokens)s > 0
    on conflict (team_id, day) do update set num_tokens = u.num_tokens + excluded.num_tokens
"""  # noqa: S608 - put together from constants
"""SQL: add to the tokens of the team of the model in `numbered`."""

# The files of a node that is a copy of nothing: the root of a fork refers to its source's.
_CHECKPOINTS = """
    select coalesce(sum((f.value ->> 'size')::bigint), 0)
    from models m
    join checkpoints c on c.model_id = m.id
    cross join lateral jsonb_each(coalesce(c.manifest -> 'files', '{}')) f
    where m.team_id = :team_id and c.files_id = c.id and c.status = 'committed' and c.files_removed_at is null
        and (c.state_removed_at is null or f.key not like 'state/%')
"""
_PICTURES = "select coalesce(sum(num_bytes), 0) from pictures where team_id = :team_id"
_STORAGE = f"({_CHECKPOINTS}) + ({_PICTURES})"

_USAGE = f"""
    select
        (select count(*) from models m where m.team_id = :team_id and {LISTED}),
        {_STORAGE},
        coalesce((select num_tokens from training_usage where team_id = :team_id and day = {TODAY}), 0)
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class TeamUsage:
    """Models, bytes of checkpoints and pictures that are kept, and tokens sent to be trained since midnight, UTC."""

    num_models: int
    storage_bytes: int
    training_tokens_today: int


async def usage_of(session: AsyncSession, team_id: UUID) -> TeamUsage:
    """What a team uses now."""
    row = (await session.execute(text(_USAGE), {"team_id": team_id})).one()
    return TeamUsage(row[0], int(row[1]), int(row[2]))


async def storage_of(session: AsyncSession, team_id: UUID) -> int:
    """Bytes of a team's checkpoints and pictures."""
    return int((await session.scalar(text(f"select {_STORAGE}"), {"team_id": team_id})) or 0)
