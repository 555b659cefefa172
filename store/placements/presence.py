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


# Rows of runners are locked in the order of their ids, and one that is just being written is left to its writer: all
# others would wait with it. The commit does not wait for the disk: a heartbeat that is lost is followed by another.
_BEAT = """
    with shown as (
        select * from unnest(%(ids)s::uuid[], %(team_ids)s::uuid[], %(troubles)s::text[]) as s(id, team_id, trouble)
    ), own as (
        select r.id, s.team_id, s.trouble, r.stopped_at is null as lives, r.drained_at is not null as is_drained
        from shown s join runners r on r.id = s.id join api_keys k on k.id = r.key_id and k.team_id = s.team_id
    ), free as (
        select r.id from runners r where r.id in (select id from own where lives) order by r.id for update skip locked
    ), beaten as (
        update runners r set heartbeat_at = clock_timestamp(), trouble = own.trouble
        from free, own where r.id = free.id and own.id = free.id
    )
    select
        own.id, own.team_id, own.trouble, case when own.lives then own.is_drained end as is_drained,
        p.id as placement_id, p.attempt, p.kind = 'rollout' as is_rollout, p.cancelled_at is not null as is_cancelled,
        p.taken_at < clock_timestamp() - make_interval(secs => %(not_named_s)s) as is_overdue,
        set_config('synchronous_commit', 'off', true)
    from own left join placements p on p.runner_id = own.id and p.state = 'running'
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


@dataclass(frozen=True, slots=True)
class Shown:
    """Of a runner of a key of this team: that it lives, and why it cannot work."""

    runner_id: UUID
    team_id: UUID
    trouble: str | None


@dataclass(frozen=True, slots=True)
class _Running:
    placement_id: UUID
    attempt: int
    is_rollout: bool
    is_cancelled: bool
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Whether a runner is drained, as in Pulse, and what it has been given."""

    is_drained: bool | None
    running: list[_Running]

    def pulse(self, held: Sequence[tuple[UUID, int]]) -> Pulse:
        """For a runner that holds these placements, by their attempts."""
        wanted = {(one.placement_id, one.attempt) for one in self.running if not one.is_cancelled}
        named = {placement_id for placement_id, _ in held}
        return Pulse(
            self.is_drained,
            [placement_id for placement_id, attempt in held if (placement_id, attempt) not in wanted],
            [one.placement_id for one in self.running if one.is_overdue and one.placement_id not in named],
            any(one.is_rollout for one in self.running),
        )


async def beat(connection: AsyncConnection, shown: Sequence[Shown]) -> dict[Shown, Found]:
    """These runners live; without those that there are not. One statement."""
    values = {
        "ids": [one.runner_id for one in shown],
        "team_ids": [one.team_id for one in shown],
        "troubles": [one.trouble for one in shown],
        "not_named_s": NOT_NAMED_S,
    }
    found = dict[Shown, Found]()
    for row in await (await connection.execute(_BEAT.encode(), values)).fetchall():
        runner_id, team_id, trouble, is_drained, *placement, _ = row
        one = found.setdefault(Shown(runner_id, team_id, trouble), Found(is_drained, []))
        if placement[0] is not None:
            one.running.append(_Running(*placement))
    return found


_DIED = """
    update runners set stopped_at = clock_timestamp() where host = %(host)s and pid = %(pid)s and stopped_at is null
"""


def runner_died(connection: Connection, host: str, pid: int) -> None:
    """Whoever started this process saw it end: what it held need not wait until its heartbeat is old."""
    connection.execute(_DIED, {"host": host, "pid": pid})


async def teams_on(session: AsyncSession, runner_id: UUID) -> dict[UUID, str]:
    """Names of the teams whose rollouts it holds, by their ids."""
    return {row.team_id: row.name for row in await session.execute(_TEAMS, {"runner_id": runner_id})}
