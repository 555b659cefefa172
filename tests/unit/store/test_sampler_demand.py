"""How many samplers a base wants, from what servers report and from what else will ask."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from store.database import AsyncDatabase, Database
from store.planes.clock_steps import date_anew
from store.planes.registration import register_sampler, say_goodbye
from store.planes.sampler_demand import Asked, SamplerDemand, report_demand, sampler_demands
from store.planes.scaling_policy import ScalingPolicy
from store.tables import (
    ClientSessionRow,
    HostedRolloutRow,
    PlacementRow,
    RunRow,
    SamplerDemandRow,
    SamplerRow,
    SamplingSessionRow,
    TraceRow,
)
from tests.unit.conftest import World

IDLE = ScalingPolicy(idle_s=600.0, target=10)
ALWAYS = ScalingPolicy(idle_s=0.0, target=10)
HOUR = timedelta(hours=1)


def demand(database: Database) -> SamplerDemand:
    with database.session() as session:
        (only,) = sampler_demands(session)
    return only


async def report(async_database: AsyncDatabase, server: int, *asked: Asked) -> None:
    async with async_database.connection() as connection:
        await report_demand(connection, server, asked)


def age(database: Database, by: timedelta, **of: int) -> None:
    """Rows of demand are older by so much."""
    with database.session() as session:
        later = {column: getattr(SamplerDemandRow, column) - by for column in ("asked_at", "seen_at")}
        session.execute(update(SamplerDemandRow).filter_by(**of).values(later))


def test_a_base_that_nobody_asks_for_wants_none_unless_one_is_always_wanted(database: Database, world: World):
    found = demand(database)
    assert (found.base, found.asked_s, found.live) == ("base", None, 0)
    assert (found.wanted(IDLE), found.wanted(ALWAYS)) == (0, 1)


async def test_demand_is_the_sum_over_servers_and_wants_a_sampler_for_each_so_many_sequences(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(world.base_id, 0.0, 8, 2))
    assert demand(database).wanted(IDLE) == 1
    await report(async_database, 2, Asked(world.base_id, 0.0, 0, 11))
    found = demand(database)
    assert (found.running, found.waiting, found.wanted(IDLE)) == (8, 13, 3)
    await report(async_database, 2, Asked(world.base_id, 0.0, 0, 0))
    assert demand(database).wanted(IDLE) == 1


async def test_a_base_wants_one_until_it_was_idle_for_so_long(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(world.base_id, 0.0, 0, 0))
    assert demand(database).wanted(IDLE) == 1
    age(database, HOUR)
    found = demand(database)
    assert found.asked_s is not None
    assert found.asked_s >= HOUR.total_seconds()
    assert (found.wanted(IDLE), found.wanted(ALWAYS)) == (0, 1)


async def test_counts_of_a_server_that_died_lapse_and_when_it_was_asked_does_not(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(world.base_id, 0.0, 50, 50))
    age(database, timedelta(minutes=2), server=1)
    found = demand(database)
    assert (found.running, found.waiting, found.wanted(IDLE)) == (0, 0, 1)
    await report(async_database, 2, Asked(world.base_id, 500.0, 0, 0))
    with database.session() as session:
        assert set(session.scalars(select(SamplerDemandRow.server))) == {1, 2}, "1 was asked last"
    await report(async_database, 2, Asked(world.base_id, 0.0, 0, 0))
    await report(async_database, 2, Asked(world.base_id, 0.0, 0, 0))
    with database.session() as session:
        assert list(session.scalars(select(SamplerDemandRow.server))) == [2]


async def test_what_was_asked_before_the_databases_clock_was_set_back_was_asked_just_now(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(world.base_id, 0.0, 5, 5))
    age(database, -HOUR, server=1)
    async with async_database.connection() as connection:
        await date_anew(connection)
    found = demand(database)
    assert found.asked_s is not None
    assert found.asked_s >= 0
    age(database, HOUR, server=1)
    assert demand(database).wanted(IDLE) == 0


async def test_an_older_report_of_the_same_server_takes_nothing_back(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(world.base_id, 0.0, 0, 0))
    await report(async_database, 1, Asked(world.base_id, 5000.0, 0, 0))
    assert demand(database).wanted(IDLE) == 1


async def test_a_report_about_a_base_that_is_gone_is_left_out(
    database: Database, async_database: AsyncDatabase, world: World
):
    await report(async_database, 1, Asked(uuid.uuid4(), 0.0, 1, 1), Asked(world.base_id, 0.0, 1, 1))
    assert demand(database).running == 1


def _open_rollout(world: World) -> list[object]:
    return [TraceRow(team_id=world.team_id, id=uuid.uuid4(), model_id=world.model_id)]


def _rollout_of_the_base_itself(world: World) -> list[object]:
    return [TraceRow(team_id=world.team_id, id=uuid.uuid4(), model_id=world.base_id)]


def _hosted_rollout(world: World) -> list[object]:
    trace, placement = uuid.uuid4(), uuid.uuid4()
    hosted = HostedRolloutRow(
        placement_id=placement,
        team_id=world.team_id,
        trace_id=trace,
        request_digest=b"",
        job_id=uuid.uuid4(),
        environment="e",
        task="t",
        args="{}",
        agent_type="a",
        agent_config="{}",
    )
    return [
        TraceRow(team_id=world.team_id, id=trace, model_id=world.model_id, status="completed"),
        PlacementRow(id=placement, team_id=world.team_id, kind="rollout", timeout_s=60.0),
        hosted,
    ]


def _sampling_session(world: World) -> list[object]:
    session = ClientSessionRow(id="s", team_id=world.team_id)
    of = {"team_id": world.team_id, "model_id": world.model_id}
    return [session, SamplingSessionRow(id="w", session_id="s", session_index=0, kind="base", **of)]


def _run(world: World) -> list[object]:
    of = {"team_id": world.team_id, "model_id": world.model_id, "job_id": uuid.uuid4()}
    return [RunRow(**of, num_tasks=1, tasks="[]", config={}, stop={}, state="running")]


@pytest.mark.parametrize("add", [_open_rollout, _rollout_of_the_base_itself, _hosted_rollout, _sampling_session, _run])
def test_whatever_will_ask_again_keeps_a_sampler_wanted(add, database: Database, world: World):
    assert demand(database).wanted(IDLE) == 0
    with database.session() as session:
        for row in add(world):
            session.add(row)
            session.flush()
    assert demand(database).wanted(IDLE) == 1


def test_what_has_ended_or_fallen_silent_keeps_none(database: Database, world: World):
    now = func.clock_timestamp()
    with database.session() as session:
        for row in (
            *_open_rollout(world),
            *_hosted_rollout(world),
            *_sampling_session(world),
            *_run(world),
        ):
            session.add(row)
            session.flush()
        session.execute(update(TraceRow).values(last_activity_at=now - HOUR))
        session.execute(update(PlacementRow).values(state="ended", outcome="completed", ended_at=now))
        session.execute(update(ClientSessionRow).values(heartbeat_at=now - HOUR))
        session.execute(update(RunRow).values(state="paused"))
    found = demand(database)
    assert (found.hosted_rollouts, found.sampling_sessions, found.runs) == (0, 0, 0)
    assert found.wanted(IDLE) == 0


def test_samplers_that_take_requests_are_counted(database: Database, world: World):
    with database.session() as session:
        ids = [register_sampler(session, world.base_id, f"http://{n}", "local") for n in range(3)]
        say_goodbye(session, SamplerRow, ids[0])
        session.execute(update(SamplerRow).where(SamplerRow.id == ids[1]).values(drained_at=func.clock_timestamp()))
    assert demand(database).live == 1
