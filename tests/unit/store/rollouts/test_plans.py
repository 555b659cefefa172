"""Lists of many rollouts are read from indexes: counted in rows and statements, not in time."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.rollouts import TraceFilter, list_jobs, list_traces, resolve
from store.rollouts.blob_names import ROLLOUT_BLOBS
from tests.unit.conftest import World

NUM_TRACES = 20_000
PAGE = 20
FEW = 60
"""Rows that a page may cost: its own, and some to look at besides."""

_FILL = """
    insert into traces (
        team_id, id, job_id, group_id, task_slug, model_id, status, reward, created_at, timed_out_at, num_samples,
        checkpoint_ids
    )
    select
        %(team)s, md5('t' || n)::uuid, md5('job' || n / 256)::uuid, 'group-' || n / 8, 'task-' || n %% 500,
        md5('model' || n / 5000)::uuid,
        case when n %% 50 = 7 then 'error' when n %% 500 = 3 then null else 'completed' end, (n %% 101) / 100.0,
        now() - (%(count)s - n) * interval '20 seconds', case when n %% 1000 = 3 then now() end, 8,
        array[md5('checkpoint' || n / 512)::uuid]
    from generate_series(0, %(count)s - 1) n
"""
_JOBS = """
    insert into jobs (team_id, id, created_at)
    select %(team)s, md5('job' || n)::uuid, now() - (%(count)s - n) * interval '1 minute'
    from generate_series(0, %(count)s - 1) n
"""
_SAMPLES = """
    insert into samples (
        team_id, trace_id, digest, prompt_length, output_length, prompt_shared, prompt_digest, end_digest, tokens,
        tokens_blob, conversation_blob
    )
    select
        team_id, id, id::text::bytea, 1, 1, 0, '', '', case when n %% 1000 <> 0 then 'x'::bytea end,
        case when n %% 1000 = 0 then 'tokens' || n end, case when n %% 1000 = 1 then 'conversation' || n end
    from (select team_id, id, row_number() over (order by id) as n from traces where team_id = %(team)s) t
"""
_SPANS = """
    insert into spans (team_id, trace_id, span_id, digest, num_bytes, payload, payload_blob)
    select
        team_id, id, '', '', 1, case when n %% 1000 <> 2 then 'x'::bytea end,
        case when n %% 1000 = 2 then 'payload' || n end
    from (select team_id, id, row_number() over (order by id) as n from traces where team_id = %(team)s) t
"""


@pytest.fixture
def many(world: World, database: Database) -> World:
    """A team's many rollouts and jobs; the planner knows about them."""
    with database.connection() as connection:
        connection.execute(_FILL, {"team": world.team_id, "count": NUM_TRACES})
        connection.execute(_JOBS, {"team": world.team_id, "count": 2000})
        # Vacuumed, as it is in time: until then an index on arrays has a list of its own to be read through.
        connection.execute("vacuum analyze traces")
        connection.execute("analyze jobs")
    return world


class Watched:
    """A connection that explains what it is asked, and answers it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans = list[dict[str, Any]]()

    async def execute(self, query: Any, values: Any = None) -> Any:
        text = query if isinstance(query, bytes) else query.encode()
        explained = await self._connection.execute(b"explain (analyze, format json) " + text, values)
        (plan,) = await explained.fetchone()
        self.plans.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return await self._connection.execute(query, values)


class WatchedDatabase:
    """Lends watched connections."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self.watched = list[Watched]()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Watched]:
        async with self._database.connection() as connection:
            self.watched.append(Watched(connection))
            yield self.watched[-1]

    @property
    def plans(self) -> list[dict[str, Any]]:
        return [plan for one in self.watched for plan in one.plans]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def rows_read(plan: dict[str, Any]) -> int:
    """Of tables, whether they were of use or not; the rows of a bitmap are counted where its table is read."""
    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Index Scan"]
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(sum(scan.get(what, 0) * scan["Actual Loops"] for scan in scans for what in looked_at))


def tables_read_through(plan: dict[str, Any]) -> set[str]:
    return {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}


def numbered(kind: str, number: int) -> uuid.UUID:
    return uuid.UUID(hashlib.md5(f"{kind}{number}".encode()).hexdigest())


FILTERS: dict[str, tuple[dict[str, Any], int]] = {
    "all": ({}, FEW),
    "a model": ({"model_id": numbered("model", 0)}, FEW),
    "a model that nobody has": ({"model_id": uuid.uuid4()}, FEW),
    "a job": ({"job_id": numbered("job", 1)}, FEW),
    "a group": ({"group_id": "group-9"}, FEW),
    "a task": ({"task_slug": "task-9"}, FEW),
    "a checkpoint of long ago": ({"checkpoint_id": numbered("checkpoint", 1)}, 3 * 512 + FEW),
    "a reward that nobody got": ({"min_reward": 2.0}, FEW),
    "running": ({"status": "running"}, FEW),
    "cancelled, which none is": ({"status": "cancelled"}, FEW),
    "completed": ({"status": "completed"}, FEW),
    "without samples, which none is": ({"has_samples": False}, FEW),
    "with samples": ({"has_samples": True}, FEW),
}


async def test_a_page_reads_few_rows_whatever_the_filter_and_however_many_there_are(
    many: World, async_database: AsyncDatabase
):
    seen = dict[str, int]()
    for name, (wanted, at_most) in FILTERS.items():
        async with async_database.connection() as connection:
            watched: Any = Watched(connection)
            await list_traces(watched, many.team_id, TraceFilter(**wanted), limit=PAGE)
        (plan,) = watched.plans
        assert "traces" not in tables_read_through(plan), name
        seen[name] = rows_read(plan)
        assert seen[name] <= at_most, f"{name}: {plan}"


async def test_blobs_are_counted_without_reading_rows_that_name_none(many: World, async_database: AsyncDatabase):
    async with async_database.connection() as connection:
        for statement in (_SAMPLES, _SPANS):
            await connection.execute(statement, {"team": many.team_id})
        await connection.execute("vacuum analyze samples")
        await connection.execute("vacuum analyze spans")
        watched = Watched(connection)
        names = await (await watched.execute(ROLLOUT_BLOBS)).fetchall()
    (plan,) = watched.plans
    assert len(names) == 60
    assert not tables_read_through(plan)
    assert rows_read(plan) == 60


async def test_the_measure_notices_a_list_that_is_read_from_end_to_end(many: World, async_database: AsyncDatabase):
    async with async_database.connection() as connection:
        watched = Watched(connection)
        await watched.execute("select * from traces where error = 'none' order by created_at desc limit 20")
    assert "traces" in tables_read_through(watched.plans[0])
    assert rows_read(watched.plans[0]) >= NUM_TRACES


async def test_the_last_page_of_a_list_reads_no_more_than_the_first(many: World, async_database: AsyncDatabase):
    async with async_database.connection() as connection:
        watched: Any = Watched(connection)
        half = await list_traces(watched, many.team_id, TraceFilter(), limit=NUM_TRACES // 2)
        await list_traces(watched, many.team_id, TraceFilter(), limit=PAGE, cursor=half.next_cursor)
    assert rows_read(watched.plans[1]) <= FEW


async def test_a_page_of_jobs_reads_few_rows_of_each_job(many: World, async_database: AsyncDatabase):
    async with async_database.connection() as connection:
        watched: Any = Watched(connection)
        page, _ = await list_jobs(watched, many.team_id, limit=PAGE)
    (plan,) = watched.plans
    assert len(page) == PAGE
    assert "traces" not in tables_read_through(plan)
    assert rows_read(plan) <= 4 * FEW


async def test_resolving_many_rollouts_is_three_statements_that_read_these_rollouts_alone(
    many: World, async_database: AsyncDatabase, blobs: BlobStore
):
    ids = [uuid.UUID(int=0), *(numbered("t", number) for number in range(64))]
    counted = dict[int, int]()
    for count in (1, 65):
        watched: Any = WatchedDatabase(async_database)
        found = await resolve(watched, blobs, many.team_id, ids[-count:])
        counted[count] = len(watched.plans)
        assert len(found) == min(count, 64)
        assert all("traces" not in tables_read_through(plan) for plan in watched.plans)
        assert all(rows_read(plan) <= 2 * count for plan in watched.plans)
    assert counted == {1: 3, 65: 3}
