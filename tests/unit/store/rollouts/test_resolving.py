"""Which samples of a trace are its turns."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np

from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import NewSample, TraceRecord, read_span, record, resolve
from tests.unit.conftest import World
from tests.unit.store.rollouts.conftest import agent_span, make_turns, served
from wire.trajectories import Turn

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(world: World, trace_id: uuid.UUID, second: int, turn: Turn) -> NewSample:
    return NewSample(world.team_id, trace_id, turn, served(at=BEGIN + timedelta(seconds=second)))


def again(turn: Turn) -> Turn:
    """Another answer to the same prompt."""
    return Turn(turn.prompt_ids, turn.output_ids[::-1].copy() + 1, turn.sampling_logprobs)


async def resolved(world, database, blobs, trace_id, samples, told=()):
    spans = [read_span(agent_span(trace_id, step, turn), trace_id) for step, turn in told]
    told_samples = [NewSample(world.team_id, trace_id, one.turn) for one in spans if one.turn]
    await record(database, blobs, [TraceRecord(world.team_id, trace_id, [*samples, *told_samples], spans)])
    found = (await resolve(database, blobs, world.team_id, [trace_id]))[trace_id]
    return found, [sample.turn.output_ids.tolist() for sample in found.samples]


def outputs(*turns: Turn) -> list[list[int]]:
    return [turn.output_ids.tolist() for turn in turns]


async def test_without_telemetry_the_gateways_record_is_the_rollout_and_retries_count_once(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, (one, two, three) = uuid.uuid4(), make_turns(3)
    calls = [one, again(one), two, again(three), three]
    samples = [at(world, trace_id, n, turn) for n, turn in enumerate(calls)]
    found, turns = await resolved(world, async_database, blobs, trace_id, samples)
    assert turns == outputs(one, two, three), "the answer that was gone on from, else the last"
    assert not found.is_reported


async def test_telemetry_decides_where_it_tells_of_tokens(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(3)
    opponent = make_turns(2, seed=1)
    samples = [at(world, trace_id, n, turn) for n, turn in enumerate([*turns, again(turns[1]), *opponent])]
    told = list(enumerate(turns, 1))
    found, kept = await resolved(world, async_database, blobs, trace_id, samples, told[::-1])
    assert kept == outputs(*turns)
    assert found.is_reported


async def test_a_step_whose_upload_got_lost_is_filled_in_where_the_next_goes_on_from_it(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id, turns = uuid.uuid4(), make_turns(4)
    samples = [at(world, trace_id, n, turn) for n, turn in enumerate(turns)]
    _, kept = await resolved(world, async_database, blobs, trace_id, samples, [(2, turns[0]), (8, turns[3])])
    assert kept == outputs(*turns)


async def test_an_unknown_trace_is_left_out_and_one_without_tokens_is_empty(
    world: World, async_database: AsyncDatabase, blobs: BlobStore
):
    trace_id = uuid.uuid4()
    spans = [read_span("nonsense", trace_id)]
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, [], spans)])
    found = await resolve(async_database, blobs, world.team_id, [trace_id, uuid.uuid4()])
    assert list(found) == [trace_id]
    assert found[trace_id].samples == ()
    assert found[trace_id].trace.reward is None


async def test_the_trajectory_is_what_was_sampled(world: World, async_database: AsyncDatabase, blobs: BlobStore):
    trace_id, turns = uuid.uuid4(), make_turns(2)
    evaluate = {"step_id": 9, "source": "task", "task_call": {"phase": "evaluate", "result": {"score": 0.5}}}
    span = agent_span(trace_id, 1, turns[0])
    span["span_id"], span["attributes"] = "e" * 16, {**span["attributes"], "hud.payload": evaluate}
    spans = [read_span(one, trace_id) for one in (agent_span(trace_id, 1, turns[0]), span)]
    samples = [NewSample(world.team_id, trace_id, turns[0])]
    await record(async_database, blobs, [TraceRecord(world.team_id, trace_id, samples, spans)])
    trajectory = (await resolve(async_database, blobs, world.team_id, [trace_id]))[trace_id].trajectory()
    assert trajectory.reward == 0.5, "of the evaluate step, for there was no exit"
    assert trajectory.trace_id == trace_id.hex
    (turn,) = trajectory.turns
    assert np.array_equal(turn.prompt_ids, turns[0].prompt_ids)
