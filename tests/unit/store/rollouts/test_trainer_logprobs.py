"""The trainer's logprobs stand beside the sampler's, for as long as these are there."""

from __future__ import annotations

import threading
import uuid
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select

from store.blob_stores import BlobStore
from store.database import AsyncDatabase, Database
from store.rollouts import TraceRecord, delete_trace, record
from store.rollouts.digests import sample_digest
from store.rollouts.trainer_logprobs import Pass, is_kept, keep_trainer_logprobs, read_trainer_logprobs
from store.tables import ModelRow, OperationRow, TeamRow, TrainerLogprobsRow
from tests.unit.conftest import World
from tests.unit.store.rollouts.conftest import make_turns, samples
from wire.trajectories import Float32Array

TURNS = make_turns(3, length=6)
LOGPROBS: dict[bytes, Float32Array] = {
    sample_digest(turn): (turn.sampling_logprobs * np.float32(1.1)).astype(np.float32) for turn in TURNS
}


async def recorded(database: AsyncDatabase, blobs: BlobStore, team_id: UUID) -> UUID:
    trace_id = uuid.uuid4()
    await record(database, blobs, [TraceRecord(team_id, trace_id, samples(team_id, trace_id, TURNS))])
    return trace_id


def keep(database: Database, made_by: Pass, trace_id: UUID, logprobs: dict[bytes, Float32Array] = LOGPROBS) -> int:
    with database.connection() as connection:
        return keep_trainer_logprobs(connection, made_by, trace_id, logprobs)


@pytest.fixture
def made_by(database: Database, world: World) -> Pass:
    with database.session() as session:
        row = OperationRow(model_id=world.model_id, sequence=1, kind="forward", payload=b"", head_version=0)
        session.add(row)
        session.flush()
        return Pass(row.id, world.model_id, uuid.uuid4(), 7)


async def test_they_come_back_bit_for_bit_with_the_pass_that_made_them(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, made_by: Pass
):
    trace_id = await recorded(async_database, blobs, world.team_id)
    assert keep(database, made_by, trace_id) == keep(database, made_by, trace_id) == 3
    async with async_database.connection() as connection:
        found = await read_trainer_logprobs(connection, world.team_id, [trace_id, uuid.uuid4()])
        assert await read_trainer_logprobs(connection, uuid.uuid4(), [trace_id]) == {}
    assert found.keys() == {trace_id}
    assert found[trace_id].keys() == LOGPROBS.keys()
    for digest, kept in found[trace_id].items():
        assert kept.logprobs.tobytes() == LOGPROBS[digest].tobytes()
        assert (kept.operation_id, kept.kind, kept.model_id) == (made_by.operation_id, "forward", world.model_id)
        assert (kept.checkpoint_id, kept.step) == (made_by.checkpoint_id, 7)


async def test_the_last_pass_counts(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, made_by: Pass
):
    trace_id = await recorded(async_database, blobs, world.team_id)
    keep(database, made_by, trace_id)
    digest = sample_digest(TURNS[1])
    later = Pass(uuid.uuid4(), world.model_id, None, 0)
    assert keep(database, later, trace_id, {digest: np.zeros(6, np.float32)}) == 1
    async with async_database.connection() as connection:
        found = (await read_trainer_logprobs(connection, world.team_id, [trace_id]))[trace_id]
    assert {one.operation_id for other, one in found.items() if other != digest} == {made_by.operation_id}
    assert (found[digest].checkpoint_id, found[digest].kind, found[digest].logprobs.sum()) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("whose", "sequence", "finished_first", "is_later"),
    [("own", 2, False, True), ("own", 0, True, False), ("another", 0, True, True), ("another", 9, False, False)],
)
async def test_who_waits_for_a_pass_is_content_with_a_later_one(
    whose: str, sequence: int, finished_first: bool, is_later: bool,
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, made_by: Pass,
):  # fmt: skip
    trace_id = await recorded(async_database, blobs, world.team_id)

    async def is_there(operation_id: UUID) -> bool:
        async with async_database.connection() as connection:
            return await is_kept(connection, world.team_id, trace_id, operation_id)

    def finish() -> None:
        with database.session() as session:
            session.get_one(OperationRow, made_by.operation_id).finished_at = func.clock_timestamp()

    with database.session() as session:
        model = ModelRow(slug="o/other", name="other", team_id=world.team_id, base_id=world.base_id)
        session.add(model)
        session.flush()
        model_id = world.model_id if whose == "own" else model.id
        row = OperationRow(model_id=model_id, sequence=sequence, kind="forward", payload=b"", head_version=0)
        session.add(row)
        session.flush()
        other = Pass(row.id, model_id, None, 0)
    assert not await is_there(made_by.operation_id)
    if finished_first:
        finish()
    keep(database, other, trace_id)
    if not finished_first:
        finish()
    assert (await is_there(made_by.operation_id), await is_there(other.operation_id)) == (is_later, True)
    keep(database, made_by, trace_id)
    assert await is_there(made_by.operation_id)


async def test_what_is_not_on_record_with_the_models_team_is_left_out(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, made_by: Pass
):
    with database.session() as session:
        other = TeamRow(name="blues")
        session.add(other)
        session.flush()
        other_id = other.id
    theirs = await recorded(async_database, blobs, other_id)
    ours = await recorded(async_database, blobs, world.team_id)
    unknown = {b"\x00" * 32: np.zeros(1, np.float32)}
    assert keep(database, made_by, theirs) == keep(database, made_by, uuid.uuid4()) == 0
    assert keep(database, made_by, ours, LOGPROBS | unknown) == 3


async def test_they_go_with_their_trace_and_do_not_come_back_while_it_goes(
    world: World, database: Database, async_database: AsyncDatabase, blobs: BlobStore, made_by: Pass
):
    trace_id = await recorded(async_database, blobs, world.team_id)
    assert keep(database, made_by, trace_id) == 3
    late: list[int] = []
    writer = threading.Thread(target=lambda: late.append(keep(database, made_by, trace_id)))
    async with async_database.connection() as connection:
        async with connection.transaction():
            assert await delete_trace(connection, world.team_id, trace_id)
            writer.start()
            writer.join(0.3)
            assert writer.is_alive(), "it waits for the deletion"
        writer.join(10)
    assert late == [0]
    with database.session() as session:
        assert session.scalars(select(TrainerLogprobsRow)).all() == []
