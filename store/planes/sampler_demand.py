"""What is asked of the samplers of each base: reported by server processes, summed up for whoever scales samplers.

Each process has a row for each base, which it writes every few seconds while requests are under way, and at once when
the first one comes. A process that died stops writing: its counts lapse, and when it was last asked does not. So every
server answers alike, and a service that was restarted knows as much as before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from store.database import AsyncConnection
from store.planes.registration import takes_requests_sql
from store.planes.scaling_policy import REPORTED_EVERY_S, ScalingPolicy

_COUNTS_FOR_S = 3 * REPORTED_EVERY_S
_KEPT_FOR_S = 4 * _COUNTS_FOR_S
_CLIENTS_LIVE_FOR_S = 60.0
"""A client that numbers its requests sends a heartbeat every ten seconds."""

_REPORT = f"""
    with reported as (
        select * from unnest(%(bases)s::uuid[], %(ages)s::float8[], %(running)s::int[], %(waiting)s::int[])
            as r (base_id, age_s, running, waiting)
        where exists (select from models m where m.id = r.base_id)
    ), lapsed as (
        delete from sampler_demands d
        where d.server <> %(server)s and d.seen_at < clock_timestamp() - interval '{_KEPT_FOR_S} s'
            and exists (
                select from sampler_demands later
                where later.base_id = d.base_id and (later.asked_at, later.server) > (d.asked_at, d.server)
            )
    )
    insert into sampler_demands as d (base_id, server, asked_at, running, waiting)
    select base_id, %(server)s, clock_timestamp() - make_interval(secs => age_s), running, waiting from reported
    on conflict (base_id, server) do update set
        asked_at = greatest(d.asked_at, excluded.asked_at), running = excluded.running, waiting = excluded.waiting,
        seen_at = clock_timestamp()
"""  # noqa: S608 - put together from constants

# Of a fork, the base is what it was forked from; a base's own weights are sampled too.
_DEMAND = f"""
    with asked as (
        select base_id, max(asked_at) as asked_at,
            coalesce(sum(running) filter (where is_current), 0) as running,
            coalesce(sum(waiting) filter (where is_current), 0) as waiting
        from (
            select *, seen_at > clock_timestamp() - interval '{_COUNTS_FOR_S} s' as is_current from sampler_demands
        ) d group by base_id
    ), open_rollouts as (
        select coalesce(m.base_id, m.id) as base_id, max(t.last_activity_at) as active_at
        from traces t join models m on m.id = t.model_id
        where t.status is null and t.timed_out_at is null group by 1
    ), hosted as (
        select coalesce(m.base_id, m.id) as base_id, count(*) as number
        from placements p
        join hosted_rollouts h on h.placement_id = p.id
        join traces t on t.team_id = h.team_id and t.id = h.trace_id
        join models m on m.id = t.model_id
        where p.state <> 'ended' group by 1
    ), sessions as (
        select coalesce(m.base_id, m.id) as base_id, count(distinct c.id) as number
        from client_sessions c
        join sampling_sessions s on s.session_id = c.id
        join models m on m.id = s.model_id
        where c.finished_at is null
            and c.heartbeat_at > clock_timestamp() - interval '{_CLIENTS_LIVE_FOR_S} s' group by 1
    ), going_runs as (
        select m.base_id, count(*) as number
        from runs r join models m on m.id = r.model_id
        where r.state in ('queued', 'running') group by 1
    )
    select b.id, b.slug,
        coalesce(asked.running, 0)::int as running, coalesce(asked.waiting, 0)::int as waiting,
        extract(epoch from clock_timestamp() - asked.asked_at)::float8 as asked_s,
        extract(epoch from clock_timestamp() - open_rollouts.active_at)::float8 as rollouts_s,
        coalesce(hosted.number, 0)::int as hosted_rollouts,
        coalesce(sessions.number, 0)::int as sampling_sessions,
        coalesce(going_runs.number, 0)::int as runs,
        (select count(*) from samplers s where s.base_id = b.id and {takes_requests_sql("s")})::int as live
    from models b
    left join asked on asked.base_id = b.id
    left join open_rollouts on open_rollouts.base_id = b.id
    left join hosted on hosted.base_id = b.id
    left join sessions on sessions.base_id = b.id
    left join going_runs on going_runs.base_id = b.id
    where b.weights is not null and (cast(:base_id as uuid) is null or b.id = :base_id)
    order by b.created_at, b.id
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one base, by one server process. `age_s`: since a request was last under way."""

    base_id: UUID
    age_s: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class SamplerDemand:
    """Of one base, by all servers. Seconds are None where there was nothing: `asked_s` since a request was last under
    way, `rollouts_s` since something last happened in an open rollout. `live`: samplers that take requests."""

    base_id: UUID
    base: str
    running: int
    waiting: int
    asked_s: float | None
    rollouts_s: float | None
    hosted_rollouts: int
    sampling_sessions: int
    runs: int
    live: int

    def wanted(self, policy: ScalingPolicy) -> int:
        """How many samplers there should be."""
        if sequences := self.running + self.waiting:
            return -(-sequences // policy.target)
        return int(policy.idle_s == 0 or self._is_expected(policy.idle_s))

    def _is_expected(self, idle_s: float) -> bool:
        """Whether a request will come soon: whoever waits for an answer of something else will ask again."""
        if self.hosted_rollouts or self.sampling_sessions or self.runs:
            return True
        return any(age_s is not None and age_s < idle_s for age_s in (self.asked_s, self.rollouts_s))


async def report_demand(connection: AsyncConnection, server: int, asked: Collection[Asked]) -> None:
    """What this server process is asked. Rows of processes that are gone are removed once a later one tells as much."""
    values: dict[str, Any] = {
        "server": server,
        "bases": [one.base_id for one in asked],
        "ages": [one.age_s for one in asked],
        "running": [one.running for one in asked],
        "waiting": [one.waiting for one in asked],
    }
    await connection.execute(_REPORT.encode(), values)


def sampler_demands(session: Session) -> list[SamplerDemand]:
    """Of all bases."""
    return [SamplerDemand(*row) for row in session.execute(text(_DEMAND), {"base_id": None})]


async def sampler_demands_async(session: AsyncSession, base_id: UUID | None = None) -> list[SamplerDemand]:
    """Of all bases, or of this one."""
    return [SamplerDemand(*row) for row in await session.execute(text(_DEMAND), {"base_id": base_id})]
