"""Which runners live, by their heartbeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from store.database import Connection
from store.tables import RunnerRow

NOT_NAMED_S = 60.0
"""What a runner has taken for so long without naming it in a heartbeat never reached it. Longer than any reply is under
way; a runner that dies is found by its silence."""


_BEAT = text("""
    update runners set heartbeat_at = clock_timestamp(), trouble = :trouble where id = :id and stopped_at is null
    returning drained_at is not null as is_drained
""")

_TO_STOP = text("""
    select held.id
    from unnest(:ids, :attempts) as held (id, attempt)
    left join placements p on p.id = held.id
    where p.id is null or p.state <> 'running' or p.runner_id <> :runner_id or p.attempt <> held.attempt
        or p.cancelled_at is not null
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)), bindparam("attempts", type_=ARRAY(Integer)))

_NEVER_ARRIVED = text("""
    select id from placements
    where runner_id = :runner_id and state = 'running' and id <> all(:ids)
        and taken_at < clock_timestamp() - make_interval(secs => :not_named_s)
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))

_TEAMS = text("""
    select distinct p.team_id, t.name from placements p join teams t on t.id = p.team_id
    where p.runner_id = :runner_id and p.state = 'running' and p.kind = 'rollout'
""")


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat found: whether the runner is drained; what it holds and shall stop; and what was given to it
    and never reached it."""

    is_drained: bool
    to_stop: list[UUID]
    never_arrived: list[UUID]


async def beat(
    session: AsyncSession, row: RunnerRow, held: Sequence[tuple[UUID, int]], trouble: str | None
) -> Pulse | None:
    """The runner lives and holds these placements, by their attempts. None: it has said that it stops."""
    said = (await session.execute(_BEAT, {"id": row.id, "trouble": trouble})).first()
    if said is None:
        return None
    ids, attempts = [placement for placement, _ in held], [attempt for _, attempt in held]
    stop = await session.scalars(_TO_STOP, {"ids": ids, "attempts": attempts, "runner_id": row.id})
    lost = await session.scalars(_NEVER_ARRIVED, {"ids": ids, "runner_id": row.id, "not_named_s": NOT_NAMED_S})
    return Pulse(said.is_drained, list(stop), list(lost))


_DIED = """
    update runners set stopped_at = clock_timestamp() where host = %(host)s and pid = %(pid)s and stopped_at is null
"""


def runner_died(connection: Connection, host: str, pid: int) -> None:
    """Whoever started this process saw it end: what it held need not wait until its heartbeat is old."""
    connection.execute(_DIED, {"host": host, "pid": pid})


async def teams_on(session: AsyncSession, runner_id: UUID) -> dict[UUID, str]:
    """Names of the teams whose rollouts it holds, by their ids."""
    return {row.team_id: row.name for row in await session.execute(_TEAMS, {"runner_id": runner_id})}
