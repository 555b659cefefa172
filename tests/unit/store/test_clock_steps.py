"""PostgreSQL's clock was set back by an hour: everything so far is dated an hour ahead."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from store.database import AsyncDatabase, Database
from store.oplog import leases
from store.oplog.leases import LEASE_TTL_S
from store.planes.clock_steps import date_anew
from store.planes.registration import LIVE_FOR_S
from store.tables import ModelLeaseRow, TrainerRow, TrainerStartRow
from tests.unit.conftest import World

HOUR = timedelta(hours=1)
NEAR = timedelta(seconds=60)


@pytest.fixture
def held(database: Database, world: World) -> World:
    with database.session() as session:
        leases.acquire(session, world.trainer_id, world.model_id)
    with database.connection() as connection:
        leases.beat(connection, world.trainer_id)
    return world


def set_back(database: Database) -> None:
    with database.session() as session:
        session.execute(update(TrainerRow).values(heartbeat_at=TrainerRow.heartbeat_at + HOUR))
        lease = {"expires_at": ModelLeaseRow.expires_at + HOUR, "taken_at": ModelLeaseRow.taken_at + HOUR}
        session.execute(update(ModelLeaseRow).values(lease))


async def dated_anew(database: Database, async_database: AsyncDatabase, world: World) -> tuple[datetime, Any, Any]:
    async with async_database.connection() as connection:
        await date_anew(connection)
    with database.session() as session:
        now = session.scalars(select(func.clock_timestamp())).one()
        trainer = session.get_one(TrainerRow, world.trainer_id)
        return now, trainer, session.get(ModelLeaseRow, world.model_id)


async def test_a_dead_trainers_lease_runs_out_as_if_the_clock_had_not_moved(
    database: Database, async_database: AsyncDatabase, held: World
):
    set_back(database)
    now, trainer, lease = await dated_anew(database, async_database, held)
    assert abs(trainer.heartbeat_at - now) < timedelta(seconds=LIVE_FOR_S)
    assert abs(lease.expires_at - trainer.heartbeat_at - timedelta(seconds=LEASE_TTL_S)) < timedelta(seconds=1)


async def test_what_a_living_trainer_has_dated_since_stays(
    database: Database, async_database: AsyncDatabase, held: World
):
    set_back(database)
    with database.connection() as connection:
        leases.beat(connection, held.trainer_id)
    with database.session() as session:
        before = session.get_one(ModelLeaseRow, held.model_id).expires_at
    _, _, lease = await dated_anew(database, async_database, held)
    assert lease.expires_at == before


async def test_a_trainer_that_was_asked_for_is_asked_for_again(
    database: Database, async_database: AsyncDatabase, held: World
):
    with database.session() as session:
        ahead = func.clock_timestamp() + timedelta(minutes=10)
        session.add(TrainerStartRow(base_id=held.base_id, asked_at=ahead, next_at=ahead + timedelta(seconds=5)))
    now, _, _ = await dated_anew(database, async_database, held)
    with database.session() as session:
        assert abs(session.get_one(TrainerStartRow, held.base_id).next_at - now) < NEAR


async def test_nothing_is_written_where_nothing_lies_ahead(
    database: Database, async_database: AsyncDatabase, held: World
):
    versions = text("select xmin::text from trainers union all select xmin::text from model_leases")
    with database.session() as session:
        before = session.scalars(versions).all()
    await dated_anew(database, async_database, held)
    with database.session() as session:
        assert session.scalars(versions).all() == before
