"""How many slots of runners are wanted by what is queued and running."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.planes.runner_presence import takes_work_sql

# Of a team's rollouts, no more are taken at once than the team may have. Null: everybody's builds.
_DEMAND = f"""
    with asked as (
        select p.team_id, t.max_concurrent_rollouts as most,
            count(*) filter (where p.kind <> 'rollout' and p.state = 'queued') as others_queued,
            count(*) filter (where p.kind <> 'rollout' and p.state = 'running') as others_running,
            count(*) filter (where p.kind = 'rollout' and p.state = 'queued') as rollouts_queued,
            count(*) filter (where p.kind = 'rollout' and p.state = 'running') as rollouts_running
        from placements p left join teams t on t.id = p.team_id
        where p.state <> 'ended' and (p.state = 'running' or t.disabled_at is null)
            and case when cast(:label as text) is null then p.labels = '{{}}' else :label = any(p.labels) end
        group by p.team_id, t.max_concurrent_rollouts
    )
    select
        coalesce(sum(
            others_queued + least(rollouts_queued, greatest(coalesce(most, 2147483647) - rollouts_running, 0))
        ), 0)::int as queued,
        coalesce(sum(others_running + rollouts_running), 0)::int as running,
        (
            select coalesce(sum(r.slots), 0)::int from runners r
            where {takes_work_sql("r")} and (cast(:label as text) is null or :label = any(r.labels))
        ) as slots
    from asked
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class RunnerDemand:
    """Placements that runners with a label hold or could take; `slots`: of live runners with it."""

    queued: int
    running: int
    slots: int

    @property
    def wanted(self) -> int:
        """How many slots there should be."""
        return self.queued + self.running


async def runner_demand(session: AsyncSession, label: str | None) -> RunnerDemand:
    """What asks for this label; for None, what asks for none."""
    return RunnerDemand(*(await session.execute(text(_DEMAND), {"label": label})).one())
