"""What a recorder remembers of a rollout spares it the asking, and costs nothing but bytes where it is out of date."""

from __future__ import annotations

import asyncio
import uuid

import numpy as np
import pytest
from sqlalchemy import func, select

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.rollouts import Conversation, KnownSamples, NewSample, TraceRecord, delete_trace, read_rollouts, record
from store.rollouts.samples import KnownSample
from store.tables import SampleRow, TraceRow
from tests.unit.conftest import World
from tests.unit.store.rollouts.conftest import conversations, make_turns, samples, served

NUM_TURNS = 6


@pytest.fixture
def asked(async_database: AsyncDatabase, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many connections all calls of `record` took. Servers of other tests may still take theirs."""
    taken, connection = [0], async_database.connection

    def counted():
        taken[0] += 1
        return connection()

    monkeypatch.setattr(async_database, "connection", counted)
    return taken


def kept_bytes(database: Database) -> int:
    with database.session() as session:
        return session.scalar(select(func.sum(func.length(SampleRow.tokens)))) or 0


async def assert_readable(world: World, async_database: AsyncDatabase, blobs: BlobStore, trace_id, turns, asked_for):
    (rollout,) = (await read_rollouts(async_database, blobs, world.team_id, [trace_id], conversations=True)).values()
    found = {sample.turn.output_ids.tobytes(): sample for sample in rollout.others}
    assert len(found) == len(turns) == rollout.trace.num_samples
    for turn, conversation in zip(turns, asked_for, strict=True):
        sample = found[turn.output_ids.tobytes()]
        assert np.array_equal(sample.turn.prompt_ids, turn.prompt_ids)
        assert sample.conversation == conversation


async def test_no_turn_of_a_rollout_asks_what_is_on_record(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, asked: list[int]
):
    trace_id, turns, known = uuid.uuid4(), make_turns(NUM_TURNS, length=400), KnownSamples()
    for sample in samples(world.team_id, trace_id, turns):
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample])], known=known)
    assert asked[0] == NUM_TURNS
    await assert_readable(world, async_database, blobs, trace_id, turns, conversations(NUM_TURNS))
    distinct = len(turns[-1].prompt_ids) + len(turns[-1].output_ids)
    assert kept_bytes(database) < 5 * distinct + NUM_TURNS * 400 * 4


async def test_turns_that_another_process_recorded_are_asked_for_from_the_next_but_one_on(
    world: World, async_database: AsyncDatabase, blobs: BlobStore, asked: list[int]
):
    trace_id, turns = uuid.uuid4(), make_turns(NUM_TURNS)
    processes = KnownSamples(), KnownSamples()
    for number, sample in enumerate(samples(world.team_id, trace_id, turns)):
        one = [TraceRecord(world.team_id, trace_id, [sample])]
        await record(async_database, blobs, one, known=processes[number % 2])
    assert asked[0] > NUM_TURNS + 2
    await assert_readable(world, async_database, blobs, trace_id, turns, conversations(NUM_TURNS))


async def test_what_was_deleted_is_not_shared_with(world: World, async_database: AsyncDatabase, blobs: BlobStore):
    trace_id, turns, known = uuid.uuid4(), make_turns(NUM_TURNS), KnownSamples()
    new = samples(world.team_id, trace_id, turns)
    for sample in new[:3]:
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample])], known=known)
    async with async_database.connection() as connection:
        await delete_trace(connection, world.team_id, trace_id)
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, new[3:])], known=known)
    await assert_readable(world, async_database, blobs, trace_id, turns[3:], conversations(NUM_TURNS)[3:])


@pytest.mark.parametrize("remembers", [True, False])
async def test_the_trace_says_what_its_turns_came_from(
    remembers: bool, world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns, model_id = uuid.uuid4(), make_turns(4), uuid.uuid4()
    checkpoints = [None, uuid.uuid4(), uuid.uuid4()]
    new = [
        samples(world.team_id, trace_id, turns, model_id=model_id, checkpoint_id=checkpoints[number % 3])[number]
        for number in range(4)
    ]
    known = KnownSamples() if remembers else None
    for sample in [*new, new[1]]:
        one = TraceRecord(world.team_id, trace_id, [sample], model="m")
        await record(async_database, blobs, [one], known=known)
    with database.session() as session:
        (trace,) = session.scalars(select(TraceRow)).all()
        assert (trace.model, trace.model_id, trace.num_samples) == ("m", model_id, 4)
        assert sorted(trace.checkpoint_ids) == sorted(filter(None, checkpoints))
        assert trace.num_output_tokens == sum(len(turn.output_ids) for turn in turns)


async def test_a_turn_that_came_back_with_another_conversation_is_not_taken_for_the_one_that_was_deleted(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns, known = uuid.uuid4(), make_turns(3), KnownSamples()
    new = samples(world.team_id, trace_id, turns)
    for sample in new[:2]:
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample])], known=known)
    async with async_database.connection() as connection:
        await delete_trace(connection, world.team_id, trace_id)
    told = [NewSample(world.team_id, trace_id, turn) for turn in turns[:2]]
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, told)])
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [new[2]])], known=known)
    await assert_readable(world, async_database, blobs, trace_id, turns, [None, None, conversations(3)[2]])


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_conversation_is_shared_as_it_is_on_record_not_as_it_is_told_again(
    remembers: bool, world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns, (asked, following) = uuid.uuid4(), make_turns(2), conversations(2)
    known = KnownSamples() if remembers else None
    others = Conversation({}, [{"role": "user", "content": "something else"}], asked.reply)
    first = NewSample(world.team_id, trace_id, turns[0], served(others))
    again = NewSample(world.team_id, trace_id, turns[0], served(asked))
    second = NewSample(world.team_id, trace_id, turns[1], served(following))
    for batch in ([first], [again, second]):
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, batch)], known=known)
    await assert_readable(world, async_database, blobs, trace_id, turns, [others, following])


async def test_processes_that_record_one_rollout_at_the_same_time_all_count(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(60)
    new = samples(world.team_id, trace_id, turns)
    processes = [KnownSamples() for _ in range(3)]
    for number, known in enumerate(processes):
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [new[number]])], known=known)

    async def serve(number: int) -> None:
        for sample in new[3 + number :: 3]:
            one = [TraceRecord(world.team_id, trace_id, [sample])]
            await record(async_database, blobs, one, known=processes[number])

    await asyncio.gather(*(serve(number) for number in range(3)))
    await assert_readable(world, async_database, blobs, trace_id, turns, conversations(60))


async def test_a_sample_that_comes_twice_counts_once(world: World, async_database: AsyncDatabase, blobs: BlobStore):
    trace_id, turns, known = uuid.uuid4(), make_turns(2), KnownSamples()
    for sample in [*samples(world.team_id, trace_id, turns), *samples(world.team_id, trace_id, turns)]:
        await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [sample])], known=known)
    await assert_readable(world, async_database, blobs, trace_id, turns, conversations(2))


def test_the_oldest_are_forgotten():
    known, traces = KnownSamples(5), [(uuid.uuid4(), uuid.uuid4()) for _ in range(4)]
    one = KnownSample(b"d", 1, 1, b"p", b"e", None, None)
    for num_samples in (1, 2):  # a trace that grows counts once
        for trace in traces:
            known.remember(trace, [one] * num_samples)
    assert [len(known.of(trace) or ()) for trace in traces] == [0, 0, 2, 2]
    known.forget(traces[2])
    known.remember(traces[0], [one] * 3)
    assert [len(known.of(trace) or ()) for trace in traces] == [3, 0, 0, 2]
