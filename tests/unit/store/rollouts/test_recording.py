"""Both roads write the same rows, once; what is read back is what was written."""

from __future__ import annotations

import asyncio
import uuid
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select, text

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.rollouts import NewSample, TraceRecord, read_rollouts, read_span, read_spans, record
from store.rollouts.spans import SPAN_ID_REUSED
from store.tables import SampleRow, SpanRow, TraceRow
from tests.unit.conftest import World
from tests.unit.store.rollouts.conftest import agent_span, conversations, make_turns, samples, served, span
from wire.trajectories import Turn


def assert_same(found: Turn, wanted: Turn) -> None:
    assert found.prompt_ids.tobytes() == wanted.prompt_ids.tobytes()
    assert found.output_ids.tobytes() == wanted.output_ids.tobytes()
    assert found.sampling_logprobs.tobytes() == wanted.sampling_logprobs.tobytes()
    assert (found.prompt_ids.dtype, found.output_ids.dtype) == (np.int32, np.int32)
    assert found.sampling_logprobs.dtype == np.float32


def rows(database: Database, kind: type) -> list:
    with database.session() as session:
        return list(session.scalars(select(kind)))


def telemetry(world: World, trace_id: UUID, turns: list[Turn], spans: list | None = None) -> TraceRecord:
    spans = spans or [agent_span(trace_id, n, turn) for n, turn in enumerate(turns, 1)]
    new = [read_span(one, trace_id) for one in spans]
    told = [NewSample(world.team_id, trace_id, one.turn) for one in new if one.turn]
    return TraceRecord(world.team_id, trace_id, told, new)


async def test_turns_come_back_bit_for_bit_and_cost_their_length_once(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(12, length=400)
    for sample in samples(world.team_id, trace_id, turns):
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample], model="m")])
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id], conversations=True)).values()
    assert not rollout.reported
    for found, wanted, asked in zip(rollout.others, turns, conversations(12), strict=True):
        assert_same(found.turn, wanted)
        assert found.conversation == asked
    with database.session() as session:
        kept = session.scalar(select(func.sum(func.length(SampleRow.tokens)))) or 0
    distinct = len(turns[-1].prompt_ids) + len(turns[-1].output_ids)
    assert kept < 5 * distinct + 12 * 400 * 4, "every token is stored once"
    facts = rollout.trace
    assert (facts.num_samples, facts.num_turns, facts.model) == (12, 0, "m")
    assert facts.num_prompt_tokens == sum(len(turn.prompt_ids) for turn in turns)
    assert facts.num_output_tokens == 12 * 400


@pytest.mark.parametrize("gateway_first", [True, False])
async def test_both_roads_write_one_row_for_a_sample(
    gateway_first: bool, world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns, checkpoint = uuid.uuid4(), make_turns(3), uuid.uuid4()
    gateway = [
        TraceRecord(world.team_id, trace_id, [s])
        for s in samples(world.team_id, trace_id, turns, checkpoint_id=checkpoint)
    ]
    uploads = [telemetry(world, trace_id, turns)]
    for one in [*gateway, *uploads] if gateway_first else [*uploads, *gateway]:
        await record(async_database, blobs, [one])
        await record(async_database, blobs, [one])
    assert len(rows(database, SampleRow)) == 3
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id], conversations=True)).values()
    assert [sample.step_id for sample in rollout.reported] == [1, 2, 3]
    assert not rollout.others
    for found, wanted, asked in zip(rollout.reported, turns, conversations(3), strict=True):
        assert_same(found.turn, wanted)
        assert (found.checkpoint_id, found.conversation) == (checkpoint, asked)
    facts = rollout.trace
    assert (facts.num_samples, facts.num_turns, facts.checkpoint_ids) == (3, 3, [checkpoint])
    assert facts.flags == []


async def test_steps_are_in_order_whatever_order_their_batches_came_in(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(6)
    spans = [agent_span(trace_id, n, turn) for n, turn in enumerate(turns, 1)]
    for batch in (spans[4:], spans[:2], spans[1:5]):
        await record(async_database, blobs, [telemetry(world, trace_id, turns, batch)])
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert [sample.step_id for sample in rollout.reported] == [1, 2, 3, 4, 5, 6]
    for found, wanted in zip(rollout.reported, turns, strict=True):
        assert_same(found.turn, wanted)
    assert rollout.trace.num_turns == 6


async def test_two_steps_with_the_same_tokens_are_two_turns(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, (turn,) = uuid.uuid4(), make_turns(1)
    await record(async_database, blobs, [telemetry(world, trace_id, [turn, turn])])
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert [sample.step_id for sample in rollout.reported] == [1, 2]
    assert rollout.trace.num_samples == 1


async def test_another_content_under_the_same_span_id_is_kept_and_does_not_count(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(2)
    first, second = (agent_span(trace_id, 1, turn) for turn in turns)
    second["span_id"] = first["span_id"]
    for one in (first, second, first, second):
        await record(async_database, blobs, [telemetry(world, trace_id, turns, [one])])
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert_same(rollout.reported[0].turn, turns[0])
    assert len(rollout.reported) == 1
    assert rollout.trace.flags == [SPAN_ID_REUSED]
    assert rollout.trace.num_turns == 1
    spans = await read_spans(async_database, blobs, world.team_id, trace_id)
    assert [one.flag for one in spans] == [None, SPAN_ID_REUSED]
    assert [one.span for one in spans] == [first, second]


async def test_what_is_too_large_for_a_row_is_a_blob(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(2, length=30_000)
    one = telemetry(world, trace_id, turns, [span(trace_id, {"step_id": 1, "source": "tool", "x": uuid_text()})])
    one.samples += samples(world.team_id, trace_id, turns)
    await record(async_database, blobs, [one])
    assert all(row.tokens is None and row.tokens_blob for row in rows(database, SampleRow))
    assert all(row.payload_blob for row in rows(database, SpanRow))
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id])).values()
    assert_same(rollout.others[1].turn, turns[1])
    (found,) = await read_spans(async_database, blobs, world.team_id, trace_id)
    assert found.span["attributes"]["hud.payload"]["source"] == "tool"


def uuid_text() -> str:
    return "".join(uuid.uuid4().hex for _ in range(10_000))


async def test_writers_of_the_same_traces_do_not_stand_in_each_others_way(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    traces, turns = [uuid.uuid4() for _ in range(8)], make_turns(5)

    async def write(order: list[UUID]) -> None:
        for turn in turns:
            batch = [TraceRecord(world.team_id, t, [NewSample(world.team_id, t, turn, served())]) for t in order]
            await record(async_database, blobs, batch)

    await asyncio.gather(write(traces), write(traces[::-1]), write(traces[3:]))
    found = await read_rollouts(async_database, blobs, world.team_id, traces)
    assert len(found) == 8
    for rollout in found.values():
        assert rollout.trace.num_samples == len(rollout.others) == 5
        for one, wanted in zip(sorted(rollout.others, key=lambda s: len(s.turn.prompt_ids)), turns, strict=True):
            assert_same(one.turn, wanted)


async def test_a_trace_that_is_deleted_while_it_is_written_stays_readable(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(40)

    async def write() -> None:
        for sample in samples(world.team_id, trace_id, turns):
            await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample])])

    def delete() -> None:
        with database.session() as session:
            session.execute(text("delete from traces"))

    async def keep_deleting(task: asyncio.Task[None]) -> None:
        while not task.done():
            await asyncio.to_thread(delete)
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    await asyncio.gather(writing, keep_deleting(writing))
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, samples(world.team_id, trace_id, turns))])
    found = await read_rollouts(async_database, blobs, world.team_id, [trace_id])
    assert len(found[trace_id].others) == 40
    delete()
    assert not rows(database, SampleRow)
    assert not rows(database, TraceRow)


async def test_a_trace_of_another_team_is_another_trace(world: World, async_database: AsyncDatabase, blobs: BlobStore):
    trace_id, turns = uuid.uuid4(), make_turns(1)
    await record(async_database, blobs, [telemetry(world, trace_id, turns)])
    assert await read_rollouts(async_database, blobs, uuid.uuid4(), [trace_id]) == {}
    assert await read_spans(async_database, blobs, uuid.uuid4(), trace_id) == []
