"""Gives queued placements to a runner: the most urgent first, and of those, teams in turn.

A team's turn is how many placements it has running plus its place in its own queue, so that who queued ten thousand
does not keep others waiting. Leases take turns (an advisory lock): then shares and limits are exact, and none finds the
queue locked by another and goes away empty.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncConnection
from store.notify import PLACEMENT_CHANGED
from store.placements.attempts import begin_another_attempt
from store.planes.runner_presence import takes_work_sql
from wire.placements import Kind

_TURN = "select pg_advisory_xact_lock(hashtext('headway.placements'))"

_FIRST_OF_A_TEAM = """
    select p.id, p.team_id, p.kind, p.priority, p.available_at,
        row_number() over (order by p.priority, p.available_at, p.id) as place
    from placements p
    where p.state = 'queued' and p.{of_team} and p.available_at <= clock_timestamp() and p.kind = any(%(kinds)s)
        and p.kind = any(runner.kinds) and p.labels <@ runner.labels
        and (p.kind <> 'rollout' or {room_for_rollouts})
    order by p.priority, p.available_at, p.id
    limit greatest(runner.free, 0)
"""

_LEASE = f"""
    with runner as (
        select r.id, r.team_id, r.labels, r.kinds, least(%(slots)s, r.slots - (
            select count(*) from placements p where p.runner_id = r.id and p.state = 'running'
        )) as free
        from runners r where r.id = %(runner_id)s and {takes_work_sql("r")}
    ), busy as (
        select team_id, count(*) as num, count(*) filter (where kind = 'rollout') as num_rollouts
        from placements where state = 'running' group by team_id
    ), team as (
        select t.id, coalesce(busy.num, 0) as num, t.max_concurrent_rollouts - coalesce(busy.num_rollouts, 0) as room
        from teams t left join busy on busy.team_id = t.id
        where t.disabled_at is null
    ), waiting as (
        select first.*, team.num + first.place as turn, team.room
        from runner
        join team on runner.team_id is null or team.id = runner.team_id
        cross join lateral ({
    _FIRST_OF_A_TEAM.format(of_team="team_id = team.id", room_for_rollouts="coalesce(team.room > 0, true)")
}) first
        union all
        select first.*, coalesce((select num from busy where team_id is null), 0) + first.place, null
        from runner
        cross join lateral ({_FIRST_OF_A_TEAM.format(of_team="team_id is null", room_for_rollouts="true")}) first
        where runner.team_id is null
    ), placed as (
        select w.*, row_number() over (partition by team_id, kind order by priority, available_at, id) as place_of_kind
        from waiting w
    ), chosen as (
        select p.id from placements p
        where p.state = 'queued' and p.id in (
            select id from placed where kind <> 'rollout' or room is null or place_of_kind <= room
            order by priority, turn, available_at, id limit (select greatest(free, 0) from runner)
        )
        for update skip locked
    ), taken as (
        update placements p set state = 'running', attempt = attempt + 1, runner_id = %(runner_id)s,
            taken_at = clock_timestamp(), ready_at = null
        from chosen where p.id = chosen.id
        returning p.id, p.kind, p.attempt, p.team_id, p.build_id, p.timeout_s,
            pg_notify(%(changed)s, replace(p.id::text, '-', ''))
    ), begun as (
        update traces t set attempt = taken.attempt, last_activity_at = clock_timestamp()
        from taken join hosted_rollouts h on h.placement_id = taken.id
        where taken.attempt = 1 and t.team_id = h.team_id and t.id = h.trace_id
    )
    select id, kind, attempt, team_id, build_id, timeout_s from taken
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A placement that a runner holds from now on."""

    id: UUID
    kind: Kind
    attempt: int
    team_id: UUID | None
    build_id: UUID | None
    timeout_s: float


async def lease(connection: AsyncConnection, runner_id: UUID, kinds: Sequence[Kind], slots: int) -> list[Taken]:
    """Up to so many placements for a runner, as far as its own slots reach. What earlier attempts of a rollout left on
    record is removed. Nothing for a runner that is drained, stopped or silent."""
    asked = {"runner_id": runner_id, "kinds": list(kinds), "slots": slots, "changed": PLACEMENT_CHANGED}
    async with connection.pipeline(), connection.transaction():
        await connection.execute(_TURN)
        found = await connection.execute(_LEASE.encode(), asked)
        taken = [Taken(*row) for row in await found.fetchall()]
        if again := [one.id for one in taken if one.kind == "rollout" and one.attempt > 1]:
            await begin_another_attempt(connection, again)
    return taken
