"""Many traces are changed at once while recording goes on: both lock them in the same order."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from store.database import AsyncDatabase, Database
from store.rollouts import cancel_traces, close_silent_traces, delete_job
from store.tables import JobRow, TraceRow
from tests.unit.conftest import World

LOW, HIGH = uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)
_WAITS = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
_LOCK = "select from traces where id = %(id)s for update nowait"


@pytest.mark.parametrize("change", ["close", "cancel", "cancel job", "delete job"])
async def test_who_waits_for_a_trace_holds_none_that_comes_after_it(
    database: Database, async_database: AsyncDatabase, world: World, change: str
):
    job_id = uuid.uuid4()
    with database.session() as session:
        session.add(JobRow(team_id=world.team_id, id=job_id))
        session.flush()
        for trace_id in (HIGH, LOW):  # as they lie in the table, so not in the order of ids
            session.add(TraceRow(team_id=world.team_id, id=trace_id, job_id=job_id))
            session.flush()

    async def told(*_: object) -> None:
        pass

    async def make() -> int:
        if change == "close":
            return await asyncio.to_thread(close_silent_traces, database, 0.0)
        async with async_database.connection() as connection:
            if change == "delete job":
                return (await delete_job(connection, world.team_id, job_id, told))[1]
            return len(await cancel_traces(connection, world.team_id, job_id=job_id if "job" in change else None))

    async with async_database.connection() as connection, connection.transaction():
        await connection.execute(_LOCK, {"id": LOW})
        changing = asyncio.create_task(make())
        async with asyncio.timeout(20):
            while not changing.done() and not await _somebody_waits(async_database):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await connection.execute(_LOCK, {"id": HIGH})  # raises where the change has locked it
    assert await changing == 2


async def _somebody_waits(database: AsyncDatabase) -> bool:
    async with database.connection() as connection:
        return (await (await connection.execute(_WAITS)).fetchone()) == (True,)
