"""How many slots of runners are wanted."""

from __future__ import annotations

from sqlalchemy import func, update

from store.database import AsyncDatabase, Database
from store.placements.demand import RunnerDemand, runner_demand
from store.tables import PlacementRow, RunnerRow, TeamRow
from tests.unit.conftest import World


async def found(async_database: AsyncDatabase, label: str | None = None) -> RunnerDemand:
    async with async_database.session() as session:
        return await runner_demand(session, label)


def place(database: Database, world: World, *, number: int = 1, runner: RunnerRow | None = None, **values) -> None:
    values = {"team_id": world.team_id, "kind": "session", **values}
    if runner is not None:
        values |= {"state": "running", "runner_id": runner.id}
    with database.session() as session:
        session.add_all(PlacementRow(timeout_s=60.0, **values) for _ in range(number))


def add_runner(database: Database, slots: int, *labels: str) -> RunnerRow:
    kinds, about = ["session", "rollout", "build"], {"host": "h", "pid": 1, "isolation": "none", "versions": {}}
    with database.session() as session:
        runner = RunnerRow(slots=slots, labels=list(labels), kinds=kinds, **about)
        session.add(runner)
    return runner


async def test_slots_are_wanted_for_what_is_queued_and_for_what_runs(
    database: Database, async_database: AsyncDatabase, world: World
):
    assert await found(async_database) == RunnerDemand(0, 0, 0)
    runner = add_runner(database, 4)
    place(database, world, number=3)
    place(database, world, runner=runner)
    place(database, world, kind="build", team_id=None)
    place(database, world, state="ended", outcome="completed", ended_at=func.clock_timestamp())
    assert (demand := await found(async_database)) == RunnerDemand(4, 1, 4)
    assert demand.wanted == 5


async def test_a_label_counts_what_asks_for_it_and_none_what_asks_for_none(
    database: Database, async_database: AsyncDatabase, world: World
):
    add_runner(database, 4)
    add_runner(database, 2, "gpu", "eu")
    place(database, world, number=3)
    place(database, world, labels=["gpu", "eu"])
    place(database, world, labels=["gpu"])
    assert await found(async_database) == RunnerDemand(3, 0, 6)
    assert await found(async_database, "gpu") == RunnerDemand(2, 0, 2)
    assert await found(async_database, "eu") == RunnerDemand(1, 0, 2)
    assert await found(async_database, "nowhere") == RunnerDemand(0, 0, 0)


async def test_no_more_rollouts_are_counted_than_a_team_may_have_at_once(
    database: Database, async_database: AsyncDatabase, world: World
):
    runner = add_runner(database, 4)
    with database.session() as session:
        session.execute(update(TeamRow).values(max_concurrent_rollouts=5))
    place(database, world, kind="rollout", number=2, runner=runner)
    place(database, world, kind="rollout", number=100)
    place(database, world, number=7)
    assert await found(async_database) == RunnerDemand(3 + 7, 2, 4)


async def test_nothing_is_wanted_for_what_a_disabled_team_has_queued(
    database: Database, async_database: AsyncDatabase, world: World
):
    place(database, world, number=3)
    with database.session() as session:
        session.execute(update(TeamRow).values(disabled_at=func.clock_timestamp()))
    assert (await found(async_database)).wanted == 0
