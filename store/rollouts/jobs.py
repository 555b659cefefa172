"""Jobs as facts. Whether one runs follows from its traces."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

from store.database import AsyncConnection
from wire.cursors import make_cursor, parse_cursor

JobStatus = Literal["running", "completed"]

# Each job's traces are looked for by themselves (`limit 1`): as a plain `exists`, which PostgreSQL expects to ask for
# all jobs of the team, it reads through all traces there are.
_JOBS: LiteralString = """
    select
        j.id, j.team_id, j.name, j.group_size, j.taskset_id, s.name as taskset_name, j.created_at, j.pinned_at,
        case when running.is_there or traced.is_there is null then 'running' else 'completed' end as status
    from jobs j
    left join lateral (
        select true as is_there from traces t where t.team_id = j.team_id and t.job_id = j.id
            and t.status is null and t.timed_out_at is null limit 1
    ) running on true
    left join lateral (
        select true as is_there from traces t where t.team_id = j.team_id and t.job_id = j.id limit 1
    ) traced on true
    left join tasksets s on s.team_id = j.team_id and s.id = case
        when j.taskset_id ~ '^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$' then j.taskset_id::uuid
    end
    where j.team_id = %(team_id)s
"""
_OF_MODELS: LiteralString = """(%(model_ids)s::uuid[] is null or (
            exists (select from traces t where t.team_id = listed.team_id and t.job_id = listed.id
                and t.model_id = any(%(model_ids)s::uuid[]))
            and not exists (select from traces t where t.team_id = listed.team_id and t.job_id = listed.id
                and t.model_id <> all(%(model_ids)s::uuid[]))))"""
_ONE = _JOBS + " and j.id = %(id)s"
_PAGE = f"""
    select * from ({_JOBS}) listed
    where (%(name)s::text is null or strpos(lower(coalesce(name, '')), lower(%(name)s)) > 0)
        and (%(taskset_id)s::text is null or taskset_id = %(taskset_id)s)
        and (%(status)s::text is null or status = %(status)s)
        and {_OF_MODELS}
        and (%(before)s::timestamptz is null or (created_at, id) < (%(before)s, %(before_id)s::uuid))
    order by created_at desc, id desc limit %(limit)s
"""
_COUNT = f"select count(*) from jobs listed where team_id = %(team_id)s and {_OF_MODELS}"


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


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None: any. `name`: part of the name, in either case. `model_ids`: those that have rollouts of these
    models, and of no others."""

    name: str | None = None
    taskset_id: str | None = None
    status: JobStatus | None = None
    model_ids: list[UUID] | None = None


async def find_job(connection: AsyncConnection, team_id: UUID, job_id: UUID) -> JobFacts | None:
    """The team's job of that id."""
    row = await (await connection.execute(_ONE, {"team_id": team_id, "id": job_id})).fetchone()
    return JobFacts(*row) if row else None


_ANY = JobFilter()


async def list_jobs(
    connection: AsyncConnection,
    team_id: UUID,
    *,
    limit: int,
    cursor: str | None = None,
    wanted: JobFilter = _ANY,
) -> tuple[list[JobFacts], str | None]:
    """A page of the team's jobs, newest first, and the cursor of the next. Raises InvalidRequest for a bad cursor."""
    before, before_id = parse_cursor(cursor, datetime, UUID) if cursor is not None else (None, None)
    asked: dict[str, Any] = {"team_id": team_id, "limit": limit + 1, "before": before, "before_id": before_id}
    found = await (await connection.execute(_PAGE.encode(), {**asked, **asdict(wanted)})).fetchall()
    jobs = [JobFacts(*row) for row in found]
    last = jobs[limit - 1] if len(jobs) > limit else None
    return jobs[:limit], make_cursor(last.created_at, last.id) if last else None


async def count_jobs(connection: AsyncConnection, team_id: UUID, model_ids: list[UUID] | None = None) -> int:
    """How many jobs the team has; with `model_ids`, as in `JobFilter`."""
    asked = {"team_id": team_id, "model_ids": model_ids}
    row = await (await connection.execute(_COUNT.encode(), asked)).fetchone()
    assert row is not None
    return row[0]
