from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase, Database
from store.oplog import leases, leaving, work
from store.oplog.append import Appended, append_operation, place_payload
from store.oplog.operation import ModelState, Operation
from store.oplog.results import wait_for_result
from store.oplog.scheduling import NextModel, next_model
from store.oplog.waiting import WaitingCalls
from store.oplog.work import Lease
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, TrainerRow
from store.tree import move_head
from tests.unit.conftest import World
from wire.errors import InvalidRequest, LeaseLost, NotFound, Superseded, TimedOut
from wire.payload import encode


async def append(database: AsyncDatabase, world: World, kind: str = "forward_backward", **call: Any) -> Appended:
    """An operation whose caller has a key, so that no step leaves it out, unless `call` says else."""
    call = call or {"idempotency_key": uuid.uuid4().hex}
    async with database.connection() as connection:
        return await append_operation(connection, model_id=world.model_id, kind=kind, payload=encode({}), **call)


def take(database: Database, world: World, trainer_id: uuid.UUID | None = None) -> Lease:
    with database.session() as session:
        token = leases.acquire(session, trainer_id or world.trainer_id, world.model_id)
    assert token is not None
    return Lease(world.model_id, token)


def start(database: Database, lease: Lease) -> tuple[Operation, ModelState]:
    with database.connection() as connection:
        started = work.start_next(connection, lease)
    assert started is not None
    return started


def finish_pass(database: Database, lease: Lease) -> Operation:
    operation, _ = start(database, lease)
    with database.connection() as connection:
        work.complete(connection, lease, operation, {"result": encode({"metrics": {}, "num_datums": 1})}, {})
    return operation


def state_of(database: Database, operation: Appended | Operation) -> str:
    with database.session() as session:
        return session.get_one(OperationRow, operation.id).state


async def test_operations_are_numbered_without_gaps(async_database: AsyncDatabase, world: World):
    assert [(await append(async_database, world)).sequence for _ in range(3)] == [1, 2, 3]


async def test_an_operation_for_an_unknown_model_is_refused(async_database: AsyncDatabase, world: World):
    with pytest.raises(NotFound):
        async with async_database.connection() as connection:
            await append_operation(connection, model_id=uuid.uuid4(), kind="forward", payload=b"")


async def test_operations_are_taken_in_order(async_database: AsyncDatabase, database: Database, world: World):
    ids = [(await append(async_database, world)).id for _ in range(3)]
    lease = take(database, world)
    assert [finish_pass(database, lease).id for _ in range(3)] == ids
    with database.connection() as connection:
        assert work.start_next(connection, lease) is None
        assert [o.id for o in work.pending_gradients(connection, world.model_id)] == ids


async def test_a_held_lease_is_not_given_to_another_trainer(database: Database, world: World):
    take(database, world)
    with database.session() as session:
        assert leases.acquire(session, world.other_trainer_id, world.model_id) is None


async def test_models_leased_elsewhere_are_not_offered(async_database: AsyncDatabase, database: Database, world: World):
    await append(async_database, world)
    take(database, world)
    with database.connection() as connection:
        assert next_model(connection, world.base_id, world.trainer_id) == NextModel(world.model_id, 0.0)
        other = next_model(connection, world.base_id, world.other_trainer_id)
        assert other is not None
        assert other.free_in_s > 1.0


async def test_a_stale_lease_cannot_complete_an_operation(
    async_database: AsyncDatabase, database: Database, world: World
):
    await append(async_database, world)
    stale = take(database, world)
    operation, _ = start(database, stale)
    with database.session() as session:
        session.execute(update(ModelLeaseRow).values(expires_at=ModelLeaseRow.expires_at - timedelta(hours=1)))
    fresh = take(database, world, world.other_trainer_id)
    assert fresh.token > stale.token
    assert state_of(database, operation) == "queued", "the new holder finds the operation waiting"
    with pytest.raises(LeaseLost), database.connection() as connection:
        work.complete(connection, stale, operation, {"result": b""})
    with pytest.raises(LeaseLost), database.connection() as connection:
        work.start_next(connection, stale)
    assert state_of(database, operation) == "queued"
    assert finish_pass(database, fresh).id == operation.id


async def test_a_released_lease_is_free_at_once(database: Database, world: World):
    take(database, world)
    with database.connection() as connection:
        leaving.hand_back(connection, world.trainer_id)
    take(database, world, world.other_trainer_id)


def test_a_checkpoint_left_staged_by_a_dead_trainer_is_rejected(database: Database, world: World, add_checkpoint):
    staged, committed = add_checkpoint("staged"), add_checkpoint()
    take(database, world)
    with database.session() as session:
        statuses = [session.get_one(CheckpointRow, c).status for c in (staged, committed)]
    assert statuses == ["rejected", "committed"]


async def test_a_step_consumes_the_gradients_before_it_and_moves_the_head(
    async_database: AsyncDatabase, database: Database, world: World, add_checkpoint
):
    lease = take(database, world)
    await append(async_database, world)
    gradient = finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    step, model = start(database, lease)
    checkpoint_id = add_checkpoint("staged")
    with database.connection() as connection:
        work.commit_step(connection, lease, step, model, checkpoint_id, encode({}))
    with database.session() as session:
        model = session.get_one(ModelRow, world.model_id)
        assert (model.head_checkpoint_id, model.head_version) == (checkpoint_id, 1)
        assert session.get_one(CheckpointRow, checkpoint_id).status == "committed"
        assert session.get_one(OperationRow, gradient.id).consumed_by_id == step.id
    with database.connection() as connection:
        assert work.pending_gradients(connection, world.model_id) == []


async def test_moving_the_head_supersedes_pending_gradients_and_a_running_step(
    async_database: AsyncDatabase, database: Database, world: World, add_checkpoint
):
    lease = take(database, world)
    await append(async_database, world)
    done = finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    step, model = start(database, lease)
    queued = await append(async_database, world)
    async with async_database.session() as session:
        await move_head(session, world.model_id, add_checkpoint())
    assert [state_of(database, o) for o in (done, step, queued)] == ["superseded"] * 3
    with pytest.raises(Superseded), database.connection() as connection:
        work.commit_step(connection, lease, step, model, add_checkpoint("staged"), encode({}))


async def test_consumed_gradients_survive_a_move_of_the_head(
    async_database: AsyncDatabase, database: Database, world: World, add_checkpoint
):
    lease = take(database, world)
    await append(async_database, world)
    gradient = finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    step, model = start(database, lease)
    with database.connection() as connection:
        work.commit_step(connection, lease, step, model, add_checkpoint("staged"), encode({}))
    async with async_database.session() as session:
        await move_head(session, world.model_id, None)
    assert (state_of(database, gradient), state_of(database, step)) == ("done", "done")


async def test_a_waiter_gets_the_result_when_the_trainer_completes(
    async_database: AsyncDatabase, database: Database, world: World, waiting_calls: WaitingCalls, tmp_path
):
    operation = await append(async_database, world)
    finish_pass(database, take(database, world))
    header, _ = await wait_for_result(async_database, waiting_calls, FileBlobStore(tmp_path), operation.id, 5.0)
    assert header == {"metrics": {}, "num_datums": 1}


async def test_a_waiter_gets_the_error_of_a_refused_operation(
    async_database: AsyncDatabase, database: Database, world: World, waiting_calls: WaitingCalls, tmp_path
):
    operation = await append(async_database, world)
    lease = take(database, world)
    started, _ = start(database, lease)
    with database.connection() as connection:
        work.fail(connection, lease, started, InvalidRequest("input 0 is empty"))
    with pytest.raises(InvalidRequest, match="input 0 is empty"):
        await wait_for_result(async_database, waiting_calls, FileBlobStore(tmp_path), operation.id, 5.0)


async def test_a_waiter_is_told_that_no_trainer_lives(
    async_database: AsyncDatabase, database: Database, world: World, waiting_calls: WaitingCalls, tmp_path
):
    with database.session() as session:
        session.execute(update(TrainerRow).values(heartbeat_at=TrainerRow.heartbeat_at - timedelta(minutes=1)))
    operation = await append(async_database, world)
    with pytest.raises(TimedOut, match="no trainer for base base is alive since"):
        await wait_for_result(async_database, waiting_calls, FileBlobStore(tmp_path), operation.id, 0.0)


def test_large_payloads_become_blobs(tmp_path):
    blobs = FileBlobStore(tmp_path)
    small, large = encode({}), encode({"arguments": "x" * 100_000})
    assert place_payload(blobs, small) == {"payload": small, "payload_blob": None, "pictures": None}
    placed = place_payload(blobs, large)
    assert placed["payload"] is None
    assert blobs.get(placed["payload_blob"] or "") == large
