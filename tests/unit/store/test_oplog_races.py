"""What a trainer writes while somebody else has the rows locked: it waits, looks again, and writes all or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from store.database import AsyncDatabase, Database
from store.oplog import leases, work
from store.tables import CheckpointRow, ModelLeaseRow, ModelRow, OperationRow
from tests.unit.conftest import World
from tests.unit.store.test_oplog import append, finish_pass, start, state_of, take
from wire.errors import LeaseLost, Superseded
from wire.payload import encode

DONE = {"result": encode({"metrics": {}, "num_datums": 1})}


def while_locked(database: Database, change: Callable[[Any], object], write: Callable[[Any], object]) -> Any:
    """The outcome of `write`, which begins after `change` was made and before it is committed."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with database.connection() as connection:
                outcome.append(write(connection))
        except Exception as error:
            outcome.append(error)

    writer = threading.Thread(target=run)
    with database.session() as session:
        change(session)
        session.flush()
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive(), "it waits for the lock"
    writer.join(10)
    return outcome[0]


def moved_head(world: World) -> Callable[[Any], None]:
    """What store.tree.move_head does to a model that has no checkpoint to go to."""

    def move(session: Any) -> None:
        session.get_one(ModelRow, world.model_id, with_for_update=True).head_version += 1
        mine = OperationRow.model_id == world.model_id
        session.execute(update(OperationRow).where(mine).values(state="superseded"))

    return move


def lost_lease(world: World) -> Callable[[Any], None]:
    def lose(session: Any) -> None:
        long_ago = ModelLeaseRow.expires_at - timedelta(hours=1)
        session.execute(update(ModelLeaseRow).values(expires_at=long_ago))
        assert leases.acquire(session, world.other_trainer_id, world.model_id)

    return lose


@pytest.fixture
async def step(async_database: AsyncDatabase, database: Database, world: World, add_checkpoint):
    """A running optim_step with one gradient before it and its checkpoint staged."""
    lease = take(database, world)
    await append(async_database, world)
    gradient = finish_pass(database, lease)
    await append(async_database, world, "optim_step")
    operation, model = start(database, lease)
    return lease, operation, model, gradient, add_checkpoint("staged")


async def test_a_pass_completes_as_superseded_when_the_head_moves_meanwhile(
    async_database: AsyncDatabase, database: Database, world: World
):
    await append(async_database, world)
    lease = take(database, world)
    operation, _ = start(database, lease)
    outcome = while_locked(database, moved_head(world), lambda c: work.complete(c, lease, operation, DONE, {}))
    assert isinstance(outcome, Superseded)
    assert state_of(database, operation) == "superseded"


async def test_a_pass_is_not_completed_when_the_lease_goes_meanwhile(
    async_database: AsyncDatabase, database: Database, world: World
):
    await append(async_database, world)
    lease = take(database, world)
    operation, _ = start(database, lease)
    outcome = while_locked(database, lost_lease(world), lambda c: work.complete(c, lease, operation, DONE, {}))
    assert isinstance(outcome, LeaseLost)
    assert state_of(database, operation) == "queued", "for the new holder"


@pytest.mark.parametrize(("change", "error"), [(moved_head, Superseded), (lost_lease, LeaseLost)])
def test_a_step_commits_nothing_when_it_loses_the_race(step, database: Database, world: World, change, error):
    lease, operation, model, gradient, checkpoint_id = step
    outcome = while_locked(
        database,
        change(world),
        lambda c: work.commit_step(c, lease, operation, model, checkpoint_id, encode({})),
    )
    assert isinstance(outcome, error)
    with database.session() as session:
        assert session.get_one(ModelRow, world.model_id).head_checkpoint_id is None
        assert session.get_one(CheckpointRow, checkpoint_id).status != "committed"
        assert session.get_one(OperationRow, gradient.id).consumed_by_id is None
        assert session.get_one(OperationRow, operation.id).result is None


def test_a_step_that_was_superseded_does_not_move_the_head(step, database: Database, world: World):
    lease, operation, model, _, checkpoint_id = step
    with database.session() as session:
        session.execute(update(OperationRow).where(OperationRow.id == operation.id).values(state="superseded"))
    with pytest.raises(Superseded), database.connection() as connection:
        work.commit_step(connection, lease, operation, model, checkpoint_id, encode({}))
    with database.session() as session:
        row = session.get_one(ModelRow, world.model_id)
        assert (row.head_checkpoint_id, row.head_version) == (None, model.head_version)


async def test_an_operation_that_is_superseded_meanwhile_is_not_started(
    async_database: AsyncDatabase, database: Database, world: World
):
    await append(async_database, world)
    lease = take(database, world)
    assert while_locked(database, moved_head(world), lambda c: work.start_next(c, lease)) is None
    with database.session() as session:
        assert session.scalar(select(OperationRow.attempts)) == 0


async def test_a_step_starts_at_the_head_to_which_it_waited(
    async_database: AsyncDatabase, database: Database, world: World
):
    await append(async_database, world, "optim_step")
    lease = take(database, world)

    def move(session: Any) -> None:
        session.get_one(ModelRow, world.model_id, with_for_update=True).head_version += 1

    _, model = while_locked(database, move, lambda c: work.start_next(c, lease))
    assert model.head_version == 1


def test_a_connection_that_postgresql_ended_is_replaced(database: Database):
    with database.connection() as connection:
        (row,) = connection.execute("select pg_backend_pid() as pid")
    with database.session() as session:
        session.connection().exec_driver_sql(f"select pg_terminate_backend({row.pid})")
    time.sleep(0.2)
    with database.connection() as connection:
        assert list(connection.execute("select 1 as one")) == [(1,)]
