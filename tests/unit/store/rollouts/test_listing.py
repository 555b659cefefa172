"""Lists of traces: filters, and pages that stay whole."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from store.database import AsyncDatabase, Database
from store.rollouts import TraceFilter, count_traces, list_traces
from store.tables import TraceRow
from tests.unit.conftest import World
from wire.errors import InvalidRequest

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
JOB, MODEL, CHECKPOINT = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()


def add(database: Database, world: World, hour: int, **values: Any) -> uuid.UUID:
    row = TraceRow(team_id=world.team_id, id=uuid.uuid4(), created_at=BEGIN + timedelta(hours=hour), **values)
    with database.session() as session:
        session.add(row)
    return row.id


async def listed(database: AsyncDatabase, world: World, **wanted: Any) -> list[uuid.UUID]:
    async with database.connection() as connection:
        page = await list_traces(connection, world.team_id, TraceFilter(**wanted), limit=100)
        assert await count_traces(connection, world.team_id, TraceFilter(**wanted)) == len(page.traces)
    return [trace.id for trace in page.traces]


async def test_filters_choose_traces(world: World, database: Database, async_database: AsyncDatabase):
    job = add(database, world, 0, job_id=JOB, group_id="g", task_slug="t", status="completed", reward=0.5)
    model = add(database, world, 1, model_id=MODEL, status="error")
    checkpoint = add(database, world, 2, checkpoint_ids=[uuid.uuid4(), CHECKPOINT], evaluated_reward=1.0)
    silent = add(database, world, 3, timed_out_at=BEGIN, num_samples=2)
    for wanted, found in [
        ({}, [silent, checkpoint, model, job]),
        ({"job_id": JOB}, [job]),
        ({"group_id": "g"}, [job]),
        ({"task_slug": "t"}, [job]),
        ({"model_id": MODEL}, [model]),
        ({"checkpoint_id": CHECKPOINT}, [checkpoint]),
        ({"min_reward": 0.5}, [checkpoint, job]),
        ({"max_reward": 0.5}, [job]),
        ({"status": "running"}, [checkpoint]),
        ({"status": "error"}, [silent, model]),
        ({"status": "completed"}, [job]),
        ({"since": BEGIN + timedelta(hours=1), "until": BEGIN + timedelta(hours=3)}, [checkpoint, model]),
        ({"has_samples": True}, [silent]),
        ({"job_id": JOB, "status": "error"}, []),
    ]:
        assert await listed(async_database, world, **wanted) == found, wanted


async def test_pages_stay_whole_while_traces_come_and_go(
    world: World, database: Database, async_database: AsyncDatabase
):
    old = [add(database, world, hour // 3) for hour in range(10)]  # three at a time began together
    seen, cursor = list[uuid.UUID](), None
    while True:
        async with async_database.connection() as connection:
            page = await list_traces(connection, world.team_id, TraceFilter(), limit=3, cursor=cursor)
        seen += [trace.id for trace in page.traces]
        cursor = page.next_cursor
        if cursor is None:
            break
        add(database, world, 99)
    assert sorted(seen) == sorted(old)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "MjAyNg", "=" * 10])
async def test_a_cursor_that_nobody_gave_is_refused(cursor: str, world: World, async_database: AsyncDatabase):
    async with async_database.connection() as connection:
        with pytest.raises(InvalidRequest, match="cursor"):
            await list_traces(connection, world.team_id, TraceFilter(), limit=3, cursor=cursor)
