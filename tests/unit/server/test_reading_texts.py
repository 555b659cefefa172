"""Rollouts are found by what was said in them, soon after it was said."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select, update

from server.background import reading_texts
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase, Database
from store.rollouts import (
    Conversation,
    NewSample,
    Served,
    TraceFilter,
    TraceRecord,
    delete_trace,
    list_traces,
    read_span,
    record,
)
from store.tables import SampleRow, TraceRow, TraceTextRow
from tests.unit.conftest import World
from wire.trajectories import Turn


def chat(world: World, trace_id: uuid.UUID, *asked: str) -> TraceRecord:
    """Its last turn."""
    reply = {"role": "assistant", "content": "Certainly."}
    messages = [one for text in asked for one in ({"role": "user", "content": text}, reply)][:-1]
    prompt = [one for number in range(len(asked)) for one in (number + 10, 7)][:-1]
    turn = Turn(np.array(prompt, np.int32), np.array([7], np.int32), np.zeros(1, np.float32))
    conversation = Conversation({}, messages, reply)
    served = Served(datetime.now(UTC), "c", None, None, {}, "stop", 0.1, conversation)
    return TraceRecord(world.team_id, trace_id, [NewSample(world.team_id, trace_id, turn, served)])


def tool_step(world: World, trace_id: uuid.UUID) -> TraceRecord:
    payload = {
        "step_id": 1,
        "source": "tool",
        "call": {"name": "get_weather", "arguments": {"city": "Łódź"}},
        "result": {"isError": True, "content": [{"type": "text", "text": "quota exceeded\x00"}]},
    }
    attributes = {"hud.schema": "hud.step.v1", "hud.payload": payload}
    return TraceRecord(world.team_id, trace_id, spans=[read_span({"span_id": "s", "attributes": attributes}, trace_id)])


async def test_what_was_said_is_found(
    world: World,
    database: Database,
    async_database: AsyncDatabase,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(reading_texts, "_LOOK_EVERY_S", 0.02)
    blobs, asked, told, broken = FileBlobStore(tmp_path), uuid.uuid4(), uuid.uuid4(), uuid.uuid4()

    async def say(record_: TraceRecord) -> None:
        """As if it had been said a while ago."""
        await record(async_database, blobs, [record_])
        with database.session() as session:
            long_ago = func.clock_timestamp() - timedelta(minutes=5)
            session.execute(update(TraceRow).where(TraceRow.id == record_.trace_id).values(last_activity_at=long_ago))

    async def found(text: str) -> list[uuid.UUID]:
        async with asyncio.timeout(30):
            while await _num_unread(async_database):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        async with async_database.connection() as connection:
            page = await list_traces(connection, world.team_id, TraceFilter(text=text), limit=9)
        return [trace.id for trace in page.traces]

    await say(chat(world, broken, "not to be read"))
    with database.session() as session:
        session.execute(update(SampleRow).values(conversation=None, conversation_blob="gone"))
    async with reading_texts.reading_texts(postgres_url, blobs):
        await say(chat(world, asked, "Where is my refund?"))
        await say(tool_step(world, told))
        assert await found("refund certainly") == [asked]
        assert await found('get_weather łódź "quota exceeded"') == [told]
        assert await found("read") == []
        await say(chat(world, asked, "Where is my refund?", "And the invoice of last May?"))
        assert await found("refund invoice") == [asked]
    async with async_database.connection() as connection:
        await delete_trace(connection, world.team_id, asked)
    with database.session() as session:
        assert asked not in set(session.scalars(select(TraceTextRow.trace_id)))


async def _num_unread(database: AsyncDatabase) -> int:
    async with database.session() as session:
        return await session.scalar(select(func.count()).where(TraceRow.is_unread)) or 0
