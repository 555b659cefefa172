from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select

from server.background.closing_rollouts import closing_rollouts
from server.process.settings import GarbageCollectionSettings, ServerSettings
from store.database import AsyncDatabase, Database
from store.rollouts import TraceFilter, list_traces
from store.tables import TraceRow
from tests.unit.conftest import World


async def test_a_rollout_without_a_sign_of_life_is_closed_and_no_other(
    database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path
):
    long_ago = func.clock_timestamp() - timedelta(hours=7)
    silent, done, lively = (uuid.uuid4() for _ in range(3))
    with database.session() as session:
        session.add(TraceRow(team_id=world.team_id, id=silent, last_activity_at=long_ago))
        session.add(TraceRow(team_id=world.team_id, id=done, last_activity_at=long_ago, status="completed"))
        session.add(TraceRow(team_id=world.team_id, id=lively))
    url = database.url.render_as_string(hide_password=False)
    garbage_collection = GarbageCollectionSettings(f"file://{tmp_path}/c", close_every_s=0.02)
    async with (
        closing_rollouts(
            ServerSettings(url, f"file://{tmp_path}/blobs", "token", garbage_collection=garbage_collection)
        ),
        asyncio.timeout(30),
    ):
        while not await _closed(async_database):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await _closed(async_database) == [silent]
    async with async_database.connection() as connection:
        page = await list_traces(connection, world.team_id, TraceFilter(status="error"), limit=9)
    assert [(trace.id, trace.timed_out, trace.status) for trace in page.traces] == [(silent, True, "error")]


async def _closed(database: AsyncDatabase) -> list[uuid.UUID]:
    async with database.session() as session:
        return list(await session.scalars(select(TraceRow.id).where(TraceRow.timed_out_at.is_not(None))))
