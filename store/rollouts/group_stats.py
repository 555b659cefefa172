"""What the rollouts of a job came to: of each group the spread of its rewards, of each job how many groups taught.

A group is the rollouts of one task under one group id. Only rollouts that completed with a reward count for the
spread: whatever an error or a cancelled rollout was rewarded says nothing, and is refused for training.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.traces import REWARD, STATUS
from wire.cursors import make_cursor, parse_cursor
from wire.spread import HAS_SPREAD

Verdict = Literal["running", "ungraded", "teaches", "all_pass", "all_fail", "all_equal"]
"""Of a group. `all_pass`: every reward is the same and at least 1; `all_fail`: the same and at most 0. What is the
same, `wire.spread` says."""

MOST_REWARDS = 64
"""How many rewards of a group are listed, the first ones of it."""
MOST_SUMMARISED = 2_000
"""How many rollouts of a job, the newest ones, its line in a list sums up."""

# Sums and squares of these stay within a double.
_REWARD = f"(case when {REWARD} <> 'NaN' then least(greatest({REWARD}, -1e30), 1e30) end)"
_GRADED = f"{STATUS} = 'completed' and {_REWARD} is not null"
_FIGURES = f"""
    count(*) as num_rollouts,
    count(*) filter (where {STATUS} = 'running') as num_running,
    count(*) filter (where {STATUS} not in ('running', 'completed')) as num_failed,
    count(*) filter (where {_GRADED}) as num_graded,
    avg({_REWARD}) filter (where {_GRADED}) as mean,
    stddev_pop({_REWARD}) filter (where {_GRADED}) as std,
    min({_REWARD}) filter (where {_GRADED}) as low,
    max({_REWARD}) filter (where {_GRADED}) as high
"""
_HAS_SPREAD = HAS_SPREAD.format(low="low", high="high")
_VERDICT = f"""
    case when num_running > 0 then 'running' when num_graded = 0 then 'ungraded' when {_HAS_SPREAD} then 'teaches'
        when low >= 1 then 'all_pass' when high <= 0 then 'all_fail' else 'all_equal' end as verdict
"""
_GROUP_KEY = "md5(coalesce(t.group_id, '') || chr(31) || coalesce(t.task_slug, ''))::uuid"

_GROUPS = f"""
    with judged as materialized (
        select *, {_VERDICT} from (
            select
                {_GROUP_KEY} as key, t.group_id, t.task_slug, min(t.created_at) as began, {_FIGURES},
                (array_agg({_REWARD} order by t.created_at, t.id) filter (where {_GRADED}))[1:{MOST_REWARDS}] as rewards
            from traces t where t.team_id = %(team_id)s and t.job_id = %(job_id)s
            group by t.group_id, t.task_slug
        ) figures
    ),
    counts as (
        select coalesce(jsonb_object_agg(verdict, num), '{{}}') as counts from (
            select verdict, count(*) as num from judged group by verdict
        ) verdicts
    ),
    page as (
        select * from judged
        where (%(verdict)s::text is null or verdict = %(verdict)s)
            and (%(before)s::timestamptz is null or (began, key) < (%(before)s, %(before_id)s::uuid))
        order by began desc, key desc limit %(limit)s
    )
    select counts, key, group_id, task_slug, began, verdict, num_rollouts, num_running, num_failed, num_graded, mean,
        std, low, high, rewards
    from counts left join page on true order by began desc, key desc
"""

_JOBS = f"""
    select j.id as job_id, summary.* from unnest(%(job_ids)s::uuid[]) as j(id)
    join lateral (
        select
            sum(num_rollouts)::bigint as num_rollouts, sum(num_running)::bigint as num_running,
            sum(num_failed)::bigint as num_failed, sum(num_graded)::bigint as num_graded,
            sum(mean * num_graded) / nullif(sum(num_graded), 0)::float8 as mean,
            count(*) filter (where num_graded > 0 and num_running = 0) as num_groups,
            count(*) filter (where {_HAS_SPREAD} and num_running = 0) as num_teaching
        from (
            select {_FIGURES} from (
                select * from traces where team_id = %(team_id)s and job_id = j.id
                order by created_at desc limit {MOST_SUMMARISED}
            ) t group by t.group_id, t.task_slug
        ) groups
    ) summary on true
"""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group. `std`: over n, of the graded rollouts; `rewards`: of these, in the order in which they began."""

    key: UUID
    group_id: str | None
    task_slug: str | None
    began: datetime
    verdict: Verdict
    num_rollouts: int
    num_running: int
    num_failed: int
    num_graded: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    rewards: list[float] | None


@dataclass(frozen=True, slots=True)
class GroupPage:
    """Groups of a job, newest first. `counts`: of all its groups, by verdict."""

    groups: list[GroupFacts]
    counts: dict[str, int]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The newest `MOST_SUMMARISED` rollouts of a job. Groups: those that have ended with any reward."""

    num_rollouts: int
    num_running: int
    num_failed: int
    num_graded: int
    mean: float | None
    num_groups: int
    num_teaching: int


async def list_groups(
    connection: AsyncConnection,
    team_id: UUID,
    job_id: UUID,
    *,
    limit: int,
    verdict: Verdict | None = None,
    cursor: str | None = None,
) -> GroupPage:
    """A page of a job's groups. Reads all rollouts of the job. Raises InvalidRequest for a bad cursor."""
    before, before_id = parse_cursor(cursor, datetime, UUID) if cursor is not None else (None, None)
    asked: dict[str, Any] = {"team_id": team_id, "job_id": job_id, "limit": limit + 1, "verdict": verdict}
    found = await connection.execute(_GROUPS.encode(), {**asked, "before": before, "before_id": before_id})
    rows = await found.fetchall()
    groups = [GroupFacts(*row[1:]) for row in rows if row[1] is not None]
    last = groups[limit - 1] if len(groups) > limit else None
    next_cursor = make_cursor(last.began, last.key) if last else None
    return GroupPage(groups[:limit], rows[0][0], next_cursor)


async def summarise_jobs(
    connection: AsyncConnection, team_id: UUID, job_ids: Collection[UUID]
) -> dict[UUID, JobSummary]:
    """One statement for all of them; a job without rollouts has no summary."""
    found = await connection.execute(_JOBS.encode(), {"team_id": team_id, "job_ids": list(job_ids)})
    return {row[0]: JobSummary(*row[1:]) for row in await found.fetchall() if row[1] is not None}
