"""Which runners live, by their heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.database import AsyncConnection, Connection

NOT_NAMED_S = 60.0
"""What a runner has taken for so long without naming it in a heartbeat never reached it. Longer than any reply is under
way; a runner that dies is found by its silence."""


# The commit does not wait for the disk: a heartbeat that is lost is followed by another.
_BEAT = """
    with own as (
        select r.id from runners r join api_keys k on k.id = r.key_id where r.id = %(id)s and k.team_id = %(team_id)s
    ), beaten as (
        update runners r set heartbeat_at = clock_timestamp(), trouble = %(trouble)s
        from own where r.id = own.id and r.stopped_at is null
        returning r.drained_at is not null as is_drained
    ), running as (
        select p.id, p.team_id, p.kind, p.attempt, p.taken_at, p.cancelled_at from placements p, own
        where p.runner_id = own.id and p.state = 'running'
    )
    select
        exists(select from own) as is_own,
        (select is_drained from beaten) as is_drained,
        array(
            select held.id from unnest(%(ids)s::uuid[], %(attempts)s::integer[]) as held (id, attempt)
            left join running on running.id = held.id and running.attempt = held.attempt
            where running.id is null or running.cancelled_at is not null
        ) as to_stop,
        array(
            select id from running
            where id <> all(%(ids)s::uuid[]) and taken_at < clock_timestamp() - make_interval(secs => %(not_named_s)s)
        ) as never_arrived,
        exists(select from running where kind = 'rollout') as has_rollouts,
        set_config('synchronous_commit', 'off', true)
"""

_TEAMS = text("""
    select distinct p.team_id, t.name from placements p join teams t on t.id = p.team_id
    where p.runner_id = :runner_id and p.state = 'running' and p.kind = 'rollout'
""")


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat found: whether the runner is drained (None: it has said that it stops); what it holds and shall
    stop; what was given to it and never reached it; and whether it plays rollouts, whose agents have keys."""

    is_drained: bool | None
    to_stop: list[UUID]
    never_arrived: list[UUID]
    has_rollouts: bool


async def beat(
    connection: AsyncConnection, runner_id: UUID, team_id: UUID, held: Sequence[tuple[UUID, int]], trouble: str | None
) -> Pulse | None:
    """The runner of a key of this team lives and holds these placements, by their attempts. None: there is no such
    runner. One statement: a thousand runners send three hundred a second."""
    values = {
        "id": runner_id,
        "team_id": team_id,
        "trouble": trouble,
        "ids": [placement for placement, _ in held],
        "attempts": [attempt for _, attempt in held],
        "not_named_s": NOT_NAMED_S,
    }
    row = await (await connection.execute(_BEAT.encode(), values)).fetchone()
    assert row is not None, "it selects one row"
    return Pulse(row.is_drained, row.to_stop, row.never_arrived, row.has_rollouts) if row.is_own else None


_DIED = """
    update runners set stopped_at = clock_timestamp() where host = %(host)s and pid = %(pid)s and stopped_at is null
"""


def runner_died(connection: Connection, host: str, pid: int) -> None:
    """Whoever started this process saw it end: what it held need not wait until its heartbeat is old."""
    connection.execute(_DIED, {"host": host, "pid": pid})


async def teams_on(session: AsyncSession, runner_id: UUID) -> dict[UUID, str]:
    """Names of the teams whose rollouts it holds, by their ids."""
    return {row.team_id: row.name for row in await session.execute(_TEAMS, {"runner_id": runner_id})}
