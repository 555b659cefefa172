"""Jobs as facts. Whether one runs follows from its traces."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from store.database import AsyncConnection
from store.rollouts.cursors import make_cursor, parse_cursor

# The jobs are chosen before their traces are looked for. Otherwise PostgreSQL, which expects to do this for all jobs of
# the team, reads through all traces there are.
_FACTS: LiteralString = """
    select
        j.id, j.team_id, j.name, j.group_size, j.taskset_id, s.name as taskset_name, j.created_at, j.pinned_at,
        case
            when exists (
                select from traces t where t.team_id = j.team_id and t.job_id = j.id
                    and t.status is null and t.timed_out_at is null
            ) then 'running'
            when exists (select from traces t where t.team_id = j.team_id and t.job_id = j.id) then 'completed'
            else 'running'
        end as status
    from (
"""
_NAMED: LiteralString = """
    ) j left join tasksets s on s.team_id = j.team_id and s.id = case
        when j.taskset_id ~ '^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$' then j.taskset_id::uuid
    end
    order by j.created_at desc, j.id desc
"""
_MINE: LiteralString = "select * from jobs where team_id = %(team_id)s"
_NEWEST: LiteralString = " order by created_at desc, id desc limit %(limit)s"
_ONE = _FACTS + _MINE + " and id = %(id)s" + _NAMED
_FIRST = _FACTS + _MINE + _NEWEST + _NAMED
_NEXT = _FACTS + _MINE + " and (created_at, id) < (%(before)s, %(before_id)s)" + _NEWEST + _NAMED
_COUNT = "select count(*) from jobs where team_id = %(team_id)s"


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A run over a taskset. `status`: running while a trace of it is, or none has begun; else completed.

    `taskset_id`: as the client said it; `taskset_name`: where the team has that taskset here.
    """

    id: UUID
    team_id: UUID
    name: str | None
    group_size: int | None
    taskset_id: str | None
    taskset_name: str | None
    created_at: datetime
    pinned_at: datetime | None
    status: str


async def find_job(connection: AsyncConnection, team_id: UUID, job_id: UUID) -> JobFacts | None:
    """The team's job of that id."""
    row = await (await connection.execute(_ONE, {"team_id": team_id, "id": job_id})).fetchone()
    return JobFacts(*row) if row else None


async def list_jobs(
    connection: AsyncConnection, team_id: UUID, *, limit: int, cursor: str | None = None
) -> tuple[list[JobFacts], str | None]:
    """A page of the team's jobs, newest first, and the cursor of the next. Raises InvalidRequest for a bad cursor."""
    asked: dict[str, Any] = {"team_id": team_id, "limit": limit + 1}
    if cursor is not None:
        asked["before"], asked["before_id"] = parse_cursor(cursor)
    found = await (await connection.execute(_FIRST if cursor is None else _NEXT, asked)).fetchall()
    jobs = [JobFacts(*row) for row in found]
    last = jobs[limit - 1] if len(jobs) > limit else None
    return jobs[:limit], make_cursor(last.created_at, last.id) if last else None


async def count_jobs(connection: AsyncConnection, team_id: UUID) -> int:
    """How many jobs the team has."""
    row = await (await connection.execute(_COUNT, {"team_id": team_id})).fetchone()
    assert row is not None
    return row[0]
