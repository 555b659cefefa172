"""Trainers on demand: who asks for one, how often, and what those who wait are told."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import update

from store.database import AsyncDatabase, Database
from store.oplog import leaving
from store.oplog.append import append_operation
from store.planes.registration import register_trainer, trainer_ready
from store.planes.trainer_availability import TrainerAvailability, trainer_availability
from store.planes.trainer_starts import WantedTrainer, all_served, claim_wanted, start_failed, want_trainer
from store.starter import Starter
from store.tables import TrainerRow, TrainerStartRow
from tests.unit.conftest import World


async def ask(async_database: AsyncDatabase, world: World) -> None:
    async with async_database.connection() as connection:
        await append_operation(connection, model_id=world.model_id, kind="forward", payload=b"")


def stop_trainers(database: Database, world: World) -> None:
    for trainer_id in (world.trainer_id, world.other_trainer_id):
        with database.connection() as connection:
            leaving.hand_back(connection, trainer_id)


def claim(database: Database) -> list[WantedTrainer]:
    with database.connection() as connection:
        return claim_wanted(connection, None, 60.0)


def supply(database: Database) -> TrainerAvailability:
    with database.session() as session:
        (only,) = trainer_availability(session)
    return only


async def test_a_trainer_is_wanted_where_work_waits_and_none_lives(
    database: Database, async_database: AsyncDatabase, world: World
):
    assert claim(database) == []
    await ask(async_database, world)
    assert claim(database) == [], "two trainers live"
    stop_trainers(database, world)
    assert claim(database) == [WantedTrainer(world.base_id, "base", 1, 1)]
    with database.connection() as connection:
        assert not all_served(connection, ["base"])
        assert all_served(connection, ["another"])


async def test_of_many_that_look_one_asks(database: Database, async_database: AsyncDatabase, world: World):
    await ask(async_database, world)
    stop_trainers(database, world)
    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda _: claim(database), range(12)))
    assert sum(map(len, claims)) == 1


async def test_the_pause_doubles_until_a_trainer_is_ready(
    database: Database, async_database: AsyncDatabase, world: World
):
    await ask(async_database, world)
    stop_trainers(database, world)
    pauses_s: list[float] = []
    for attempt in (1, 2, 3):
        (wanted,) = claim(database)
        assert wanted.attempt == attempt
        with database.session() as session:
            row = session.get_one(TrainerStartRow, world.base_id)
            assert row.asked_at is not None
            pauses_s.append(round((row.next_at - row.asked_at).total_seconds()))
            session.execute(update(TrainerStartRow).values(next_at=TrainerStartRow.next_at - timedelta(hours=1)))
    assert pauses_s == [60, 120, 240]
    with database.session() as session:
        trainer_ready(session, register_trainer(session, world.base_id, {}, is_loading=True), {"ppo": {}})
    with database.session() as session:
        assert session.get(TrainerStartRow, world.base_id) is None


async def test_those_who_wait_are_told_why(database: Database, async_database: AsyncDatabase, world: World):
    assert supply(database).shortage is None
    await ask(async_database, world)
    stop_trainers(database, world)
    sentence = supply(database).shortage or ""
    assert sentence.startswith("no trainer for base base is alive since 20")
    assert sentence.endswith("; 1 operation queued; start one with 'headway trainer --base base'")

    claim(database)
    assert "(attempt 1) and has not come up yet" in (supply(database).shortage or "")
    with database.connection() as connection:
        start_failed(connection, world.base_id, "no GPU left in this zone")
    assert "failed: no GPU left in this zone; the next attempt is due at" in (supply(database).shortage or "")

    with database.session() as session:
        loading = register_trainer(session, world.base_id, {}, is_loading=True)
    assert "a trainer for base base is starting since 20" in (supply(database).shortage or "")
    with database.session() as session:
        trainer_ready(session, loading, {"ppo": {}})
    assert supply(database).shortage is None


async def test_a_base_that_was_never_loaded_can_be_asked_for(
    database: Database, async_database: AsyncDatabase, world: World
):
    stop_trainers(database, world)
    async with async_database.connection() as connection:
        await want_trainer(connection, world.base_id)
    assert [wanted.num_queued for wanted in claim(database)] == [0]


class Launches:
    def __init__(self) -> None:
        self.asked = threading.Event()
        self.at: list[float] = []

    def __call__(self, wanted: WantedTrainer) -> None:
        self.at.append(time.monotonic())
        self.asked.set()


async def test_work_that_comes_as_the_last_trainer_leaves_is_noticed_at_once(
    database: Database, async_database: AsyncDatabase, world: World, postgres_url: str
):
    launches = Launches()
    starter = Starter(postgres_url, None, launches, 60.0)
    try:
        await asyncio.sleep(0.5)
        for idle_first in (True, False):
            if idle_first:
                stop_trainers(database, world)
            await ask(async_database, world)
            asked_at = time.monotonic()
            if not idle_first:
                stop_trainers(database, world)
            assert launches.asked.wait(1.0), "by a wake-up, not by looking now and then"
            assert launches.at[-1] - asked_at < 1.0
            launches.asked.clear()
            with database.session() as session:  # as if the trainer had come up
                values = {"stopped_at": None, "heartbeat_at": TrainerRow.heartbeat_at + timedelta(seconds=30)}
                session.execute(update(TrainerRow).values(**values))
                trainer_ready(session, world.trainer_id, {"ppo": {}})
            await asyncio.sleep(0.5)
    finally:
        starter.close()
