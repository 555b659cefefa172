"""A drained trainer hands back what it holds and takes nothing; a drained sampler loads nothing."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from sampler.agent import Agent, AgentSettings
from server.admin import draining
from server.audit.recording import COMMAND_LINE
from store.checkpoint_stores.file import FileCheckpointStore
from store.database import AsyncDatabase, Database
from store.oplog import leases
from store.planes.adapters import report_adapter
from store.planes.promotion import Votes, promotion_votes
from store.planes.promotion_policy import PromotionPolicy
from store.planes.registration import register_sampler
from store.planes.trainer_availability import trainer_availability
from store.planes.trainer_starts import all_served
from store.tables import ModelLeaseRow, ModelRow, OperationRow, SamplerRow, TrainerRow
from tests.unit.conftest import World
from tests.unit.planes.test_agent import Holder
from tests.unit.planes.test_worker import Trainer
from wire.adapter_names import base_adapter_name


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> Trainer:
    return Trainer(database, async_database, world, tmp_path)


async def drain(database: AsyncDatabase, plane, plane_id: UUID, *, drained: bool = True) -> None:
    async with database.session() as session:
        await (draining.drain if drained else draining.undrain)(session, plane, plane_id, COMMAND_LINE)


def held(database: Database) -> list[UUID]:
    with database.session() as session:
        return list(session.scalars(select(ModelLeaseRow.trainer_id)))


async def test_a_drained_trainer_hands_its_models_to_another_one(trainer, async_database, database, world):
    first = await trainer.pass_of(1.0)
    trainer.work()
    assert trainer.now(first).state == "done"
    await drain(async_database, TrainerRow, world.trainer_id)
    second = await trainer.pass_of(2.0)
    assert not trainer.worker.work_once()
    assert trainer.now(second).state == "queued"
    with database.session() as session:
        leases.renew_all(session, world.trainer_id)
    assert held(database) == []
    trainer.restart(world.other_trainer_id)
    await trainer.step()
    trainer.work()
    assert trainer.now(second).state == "done"
    assert trainer.served_weights() == 3.0, "the other one replayed what the drained one had computed"
    assert held(database) == [world.other_trainer_id]


async def test_a_trainer_keeps_the_lease_of_the_operation_that_it_is_carrying_out(
    trainer, async_database, database, world
):
    operation = await trainer.pass_of(1.0)
    with database.session() as session:
        token = leases.acquire(session, world.trainer_id, world.model_id)
        session.execute(update(OperationRow).where(OperationRow.id == operation.id).values(state="running"))
    await drain(async_database, TrainerRow, world.trainer_id)
    with database.session() as session:
        assert leases.renew_all(session, world.trainer_id) == {world.model_id: token}
        session.execute(update(OperationRow).where(OperationRow.id == operation.id).values(state="done"))
    with database.session() as session:
        assert leases.renew_all(session, world.trainer_id) == {}


async def test_a_trainer_that_is_undrained_works_again(trainer, async_database, database, world):
    first = await trainer.pass_of(1.0)
    trainer.work()
    await drain(async_database, TrainerRow, world.trainer_id)
    with database.session() as session:
        leases.renew_all(session, world.trainer_id)
    await drain(async_database, TrainerRow, world.trainer_id, drained=False)
    await trainer.step()
    trainer.work()
    assert trainer.now(first).consumed_by_id is not None
    assert trainer.served_weights() == 1.0


async def test_a_base_whose_trainers_are_drained_has_none(async_database, database, world):
    with database.connection() as connection:
        assert all_served(connection, None)
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        await drain(async_database, TrainerRow, trainer_id)
    with database.connection() as connection:
        assert not all_served(connection, None)
    with database.session() as session:
        (supply,) = trainer_availability(session)
    assert supply.num_ready == 0


async def test_a_drained_sampler_loads_nothing_new_and_has_no_vote(
    async_database, database, world, add_checkpoint, tmp_path
):
    holder = Holder()
    settings = AgentSettings(world.base_id, "http://127.0.0.1:1", "local", linger_s=0.0)
    agent = Agent(database, FileCheckpointStore(tmp_path), holder, settings)
    with database.session() as session:
        (sampler_id,) = session.scalars(select(SamplerRow.id))
    await drain(async_database, SamplerRow, sampler_id)
    with database.session() as session:
        head = add_checkpoint()
        session.execute(update(ModelRow).where(ModelRow.id == world.model_id).values(head_checkpoint_id=head))
    agent.reconcile()
    assert holder.names == {base_adapter_name(world.base_id)}
    with database.connection() as connection:
        assert promotion_votes(
            connection, PromotionPolicy.ALL, world.base_id, base_adapter_name(world.base_id)
        ) == Votes(0, 0, [])
    with database.session() as session:
        second = register_sampler(session, world.base_id, "http://127.0.0.1:2", "local")
    with database.connection() as connection:
        report_adapter(connection, second, "hw-x", None)
        assert promotion_votes(connection, PromotionPolicy.ALL, world.base_id, "hw-x") == Votes(1, 1, [])
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(SamplerRow)) == 2
