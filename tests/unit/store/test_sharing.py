"""How trainers share the models of a base, on a real database."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update

from store.database import AsyncDatabase, Database
from store.oplog import leases, leaving, work
from store.oplog.append import append_operation
from store.oplog.sharing import PATIENCE_S, TENURE_S, NextModel, next_model
from store.oplog.work import Lease
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow, TrainerRow
from tests.unit.conftest import World


async def ask(async_database: AsyncDatabase, model_id: UUID) -> UUID:
    async with async_database.connection() as connection:
        return (await append_operation(connection, model_id=model_id, kind="forward", payload=b"")).id


def take(database: Database, world: World, trainer_id: UUID | None = None) -> int | None:
    with database.session() as session:
        return leases.acquire(session, trainer_id or world.trainer_id, world.model_id)


def upcoming(database: Database, world: World, trainer_id: UUID) -> NextModel | None:
    with database.connection() as connection:
        return next_model(connection, world.base_id, trainer_id)


def pass_time(database: Database, seconds: float) -> None:
    """As if everything so far had happened earlier; leases that are renewed do not run out."""
    ago = timedelta(seconds=seconds)
    with database.session() as session:
        session.execute(
            update(OperationRow).values(
                created_at=OperationRow.created_at - ago, finished_at=OperationRow.finished_at - ago
            )
        )
        session.execute(update(ModelLeaseRow).values(taken_at=ModelLeaseRow.taken_at - ago))


async def test_a_model_that_nobody_holds_is_offered_to_each(
    database: Database, async_database: AsyncDatabase, world: World
):
    assert upcoming(database, world, world.trainer_id) is None
    await ask(async_database, world.model_id)
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        assert upcoming(database, world, trainer_id) == NextModel(world.model_id, 0.0)


async def test_work_that_its_holder_leaves_lying_goes_to_a_free_trainer(
    database: Database, async_database: AsyncDatabase, world: World
):
    stale = take(database, world)
    pass_time(database, TENURE_S + 1)
    await ask(async_database, world.model_id)
    waiting = upcoming(database, world, world.other_trainer_id)
    assert waiting is not None
    assert 0 < waiting.free_in_s <= PATIENCE_S
    assert take(database, world, world.other_trainer_id) is None, "its holder has a moment to get round to it"
    pass_time(database, PATIENCE_S)
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)
    fresh = take(database, world, world.other_trainer_id)
    assert fresh is not None
    assert stale is not None
    assert fresh > stale


async def test_a_model_that_has_just_moved_stays(database: Database, async_database: AsyncDatabase, world: World):
    take(database, world)
    await ask(async_database, world.model_id)
    pass_time(database, PATIENCE_S + 0.5)
    assert take(database, world, world.other_trainer_id) is None


async def test_a_model_that_is_being_worked_on_stays(database: Database, async_database: AsyncDatabase, world: World):
    token = take(database, world)
    assert token is not None
    await ask(async_database, world.model_id)
    await ask(async_database, world.model_id)
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
    pass_time(database, TENURE_S + PATIENCE_S)
    assert take(database, world, world.other_trainer_id) is None
    with database.session() as session:
        done = {"state": "done", "finished_at": func.clock_timestamp()}
        session.execute(update(OperationRow).where(OperationRow.state == "running").values(**done))
    assert take(database, world, world.other_trainer_id) is None, "it has only just finished the one before"


async def test_a_stopping_trainer_hands_back_what_runs_without_counting_the_attempt(
    database: Database, async_database: AsyncDatabase, world: World, add_checkpoint
):
    token = take(database, world)
    assert token is not None
    operation_id, staged = await ask(async_database, world.model_id), add_checkpoint("staged")
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
        leaving.hand_back(connection, world.trainer_id)
    with database.session() as session:
        operation = session.get_one(OperationRow, operation_id)
        assert (operation.state, operation.attempts, operation.started_at) == ("queued", 0, None)
        assert session.get_one(CheckpointRow, staged).status == "rejected"
        assert session.get_one(TrainerRow, world.trainer_id).stopped_at is not None
        assert session.get(ModelLeaseRow, world.model_id) is None
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)


async def test_a_trainer_whose_parent_saw_it_die_leaves_its_models_at_once_and_its_attempt_counts(
    database: Database, async_database: AsyncDatabase, world: World
):
    with database.session() as session:
        session.execute(update(TrainerRow).where(TrainerRow.id == world.trainer_id).values(pid=-7))
        host = session.get_one(TrainerRow, world.trainer_id).host
    token = take(database, world)
    assert token is not None
    operation_id = await ask(async_database, world.model_id)
    with database.connection() as connection:
        work.start_next(connection, Lease(world.model_id, token))
        leaving.bury(connection, host, -7)
    with database.session() as session:
        operation = session.get_one(OperationRow, operation_id)
        assert (operation.state, operation.attempts) == ("queued", 1)
        assert session.get_one(TrainerRow, world.other_trainer_id).stopped_at is None
    assert upcoming(database, world, world.other_trainer_id) == NextModel(world.model_id, 0.0)


async def test_an_idle_trainer_leaves_only_if_nothing_waits_for_it(
    database: Database, async_database: AsyncDatabase, world: World
):
    take(database, world)
    await ask(async_database, world.model_id)
    with database.connection() as connection:
        assert not leaving.leave_if_idle(connection, world.trainer_id)
        assert leaving.leave_if_idle(connection, world.other_trainer_id), "what waits is the holder's"
    with database.session() as session:
        session.execute(update(OperationRow).values(state="done"))
    with database.connection() as connection:
        assert leaving.leave_if_idle(connection, world.trainer_id)
    with database.session() as session:
        assert session.get(ModelLeaseRow, world.model_id) is None


async def test_a_lease_is_not_given_up_while_work_waits(
    database: Database, async_database: AsyncDatabase, world: World
):
    token = take(database, world)
    assert token is not None
    await ask(async_database, world.model_id)
    with database.session() as session:
        assert not leases.release(session, world.model_id, token)
        session.execute(update(OperationRow).values(state="done"))
        assert leases.release(session, world.model_id, token)
        assert session.get(ModelRow, world.model_id) is not None
