"""The queue of what runners carry out, as a runner sees it that speaks the API."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, update

from server.auth.service import create_key, ensure_team
from server.background.lost_runners import take_back_from_lost_runners
from store.database import AsyncDatabase
from store.tables import PlacementRow, RunnerRow
from tests.contract.stand_in_runner import StandInRunner, add_environment, new_runner, place, runners_of

MINUTE = timedelta(minutes=2)


@pytest.fixture(scope="module")
async def http(origin: str, database: AsyncDatabase) -> AsyncIterator[httpx.AsyncClient]:
    async with runners_of(origin, database) as http:
        yield http


@pytest.fixture(scope="module")
async def build_id(database: AsyncDatabase, http: httpx.AsyncClient) -> uuid.UUID:
    return await add_environment(database, f"crew-{uuid.uuid4().hex[:8]}", "sums")


@pytest.fixture
async def label(database: AsyncDatabase) -> str:
    """A label which is a team as well: its runners get nothing that other tests have queued."""
    name = f"crew-{uuid.uuid4().hex[:8]}"
    async with database.session() as session:
        await ensure_team(session, name)
    return name


@pytest.fixture
async def runner(http: httpx.AsyncClient, label: str) -> StandInRunner:
    return await new_runner(http, label, team=label)


async def silence(database: AsyncDatabase, runner: StandInRunner) -> None:
    """As if it had not been heard of for a minute."""
    changed = update(RunnerRow).where(RunnerRow.id == uuid.UUID(runner.id))
    async with database.session() as session:
        await session.execute(changed.values(heartbeat_at=RunnerRow.heartbeat_at - MINUTE))
    await take_back_from_lost_runners(database)


async def row_of(database: AsyncDatabase, placement_id: uuid.UUID | str) -> PlacementRow:
    async with database.session() as session:
        return await session.get_one(PlacementRow, uuid.UUID(str(placement_id)))


async def test_a_waiting_lease_is_woken_by_what_is_queued(database, runner, build_id):
    waiting = asyncio.create_task(runner.lease(wait_s=20))
    await asyncio.sleep(0.3)
    queued = await place(database, build_id, runner.label)
    began = asyncio.get_running_loop().time()
    (got,) = await waiting
    assert asyncio.get_running_loop().time() - began < 1
    assert (got["placement_id"], got["kind"], got["attempt"]) == (str(queued), "session", 1)
    assert (got["environment"]["name"], got["environment"]["version"]) == ("sums", 1)
    assert await runner.lease() == []


async def test_racing_leases_give_each_placement_once_and_keep_to_slots(database, http, build_id, label):
    runners = [await new_runner(http, label, slots=5, team=label) for _ in range(4)]
    queued = {str(await place(database, build_id, label)) for _ in range(18)}
    got = await asyncio.gather(*(one.lease(slots) for one in runners for slots in (3, 5)))
    leased = [one["placement_id"] for some in got for one in some]
    assert len(leased) == len(set(leased)) == 18
    assert set(leased) == queued


async def test_teams_take_turns_and_the_most_urgent_comes_first(database, http, build_id):
    runner = await new_runner(http, uuid.uuid4().hex, slots=7)  # of all teams
    teams = [f"turns-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    for _ in range(20):
        await place(database, build_id, runner.label, team=teams[0], priority=-1000)
    for _ in range(3):
        await place(database, build_id, runner.label, team=teams[1], priority=-1000)
    urgent = await place(database, build_id, runner.label, team=teams[0], priority=-1001)
    got = await runner.lease(7)
    assert str(urgent) in {one["placement_id"] for one in got}
    assert sorted(Counter(one["team"] for one in got).values()) == [3, 4]


async def test_labels_kinds_and_a_runner_s_team_narrow_what_it_gets(database, http, build_id, label):
    mine = await place(database, build_id, label)
    await place(database, build_id, label, team=f"{label}-2")
    await place(database, build_id, label, team=None)
    await place(database, build_id, label, kind="build")
    other = await new_runner(http, "other", team=label)
    assert await other.lease() == []
    narrowed = await new_runner(http, label, team=label, kinds=["session"])
    assert [one["placement_id"] for one in await narrowed.lease()] == [str(mine)]


async def test_a_drained_runner_gets_nothing_and_what_it_hands_back_goes_to_another(database, http, build_id, runner):
    await place(database, build_id, runner.label)
    (got,) = await runner.lease()
    ended = await runner.end(got, "handed_back", error="the machine goes")
    assert (ended, await runner.end(got, "handed_back")) == ({"state": "queued", "outcome": None},) * 2
    await runner.call("stop")
    assert await runner.lease() == []
    other = await new_runner(http, runner.label, team=runner.label)
    (again,) = await other.lease()
    assert (again["placement_id"], again["attempt"]) == (got["placement_id"], 2)
    row = await row_of(database, got["placement_id"])
    assert row.max_attempts == 4, "it was not one of those that it may have"


async def test_an_operator_drains_a_runner_and_has_it_work_again(database, runner, build_id, origin):
    async with database.session() as session:
        key = await create_key(session, "operators", "admin", role="admin")
    await place(database, build_id, runner.label)
    async with httpx.AsyncClient(base_url=origin, headers={"Authorization": f"Bearer {key}"}) as operator:
        drained = (await operator.post(f"/v2/runners/{runner.id}/drain")).json()
        assert (drained["state"], drained["slots"], drained["num_held"]) == ("drained", 16, 0)
        assert (await runner.beat())["drain"]
        assert await runner.lease() == []
        assert (await operator.post(f"/v2/runners/{runner.id}/undrain")).json()["state"] == "live"
        assert len(await runner.lease()) == 1
        await runner.call("stop")
        assert (await operator.post(f"/v2/runners/{runner.id}/drain")).status_code == 409
        listed = (await operator.get("/v2/runners?limit=500")).json()["items"]
        assert [row["state"] for row in listed if row["id"] == runner.id] == ["stopped"]


async def test_what_a_lost_runner_held_is_another_s_and_its_reports_are_refused(database, http, build_id, runner):
    await place(database, build_id, runner.label)
    (got,) = await runner.lease()
    await silence(database, runner)
    other = await new_runner(http, runner.label, team=runner.label)
    (again,) = await other.lease()
    assert again["attempt"] == 2
    assert (await runner.beat(got))["stop"] == [got["placement_id"]]
    for what, more in (("ready", {}), ("end", {"outcome": "completed"})):
        reply = await runner.say(got, what, **more)
        assert (reply.status_code, reply.json()["code"]) == (409, "placement_lost")
    assert (await other.beat(again))["stop"] == []
    assert await other.end(again) == {"state": "ended", "outcome": "completed"}


async def test_after_its_attempts_it_has_failed_with_a_sentence(database, http, build_id, label):
    placed = await place(database, build_id, label, max_attempts=2)
    for _ in range(2):
        runner = await new_runner(http, label, team=label)
        assert len(await runner.lease(wait_s=3)) == 1
        await silence(database, runner)
    row = await row_of(database, placed)
    assert (row.state, row.outcome) == ("ended", "failed")
    assert row.error == "given up after 2 attempts: of the last one, its runner was lost"


async def test_a_session_that_was_ready_ends_with_its_runner(database, runner, build_id):
    await place(database, build_id, runner.label)
    (got,) = await runner.lease()
    assert (await runner.say(got, "ready")).status_code == 200
    await silence(database, runner)
    row = await row_of(database, got["placement_id"])
    assert (row.outcome, row.error) == (
        "failed",
        "the environment is gone, with all that it had in memory: its runner was lost",
    )


async def test_what_never_reached_its_runner_is_given_back(database, runner, build_id):
    await place(database, build_id, runner.label)
    (got,) = await runner.lease()
    async with database.session() as session:
        row = await session.get_one(PlacementRow, uuid.UUID(got["placement_id"]))
        assert row.taken_at is not None
        row.taken_at -= MINUTE
    await runner.beat()
    (again,) = await runner.lease()
    assert (again["placement_id"], again["attempt"]) == (got["placement_id"], 2)


async def test_heartbeats_of_many_runners_say_to_each_what_it_shall_stop_and_wait_for_no_row(
    database, http, build_id, label
):
    runners = [await new_runner(http, label, slots=2, team=label) for _ in range(12)]
    for _ in range(24):
        await place(database, build_id, label)
    held = [await runner.lease(2) for runner in runners]
    stopped = [got[index % 2]["placement_id"] for index, got in enumerate(held)]
    ids = [uuid.UUID(runner.id) for runner in runners]
    async with database.session() as session:
        cancels = update(PlacementRow).where(PlacementRow.id.in_(map(uuid.UUID, stopped)))
        await session.execute(cancels.values(cancelled_at=func.clock_timestamp()))
        await session.execute(update(RunnerRow).where(RunnerRow.id.in_(ids)).values(heartbeat_at=RunnerRow.started_at))
        await session.execute(update(RunnerRow).where(RunnerRow.id == ids[1]).values(drained_at=func.now()))
    async with database.session() as session:
        await session.execute(select(RunnerRow.id).where(RunnerRow.id == ids[0]).with_for_update())
        beats = await asyncio.gather(*(one.beat(*got) for one, got in zip(runners, held, strict=True)))
    assert [beat["stop"] for beat in beats] == [[one] for one in stopped]
    assert [beat["drain"] for beat in beats] == [index == 1 for index in range(12)]
    query = select(RunnerRow.id).where(RunnerRow.id.in_(ids), RunnerRow.heartbeat_at > RunnerRow.started_at)
    async with database.session() as session:
        assert set(await session.scalars(query)) == set(ids[1:]), "the first one's row was held by another"


async def test_an_attempt_that_its_runner_calls_cancelled_though_nobody_asked_is_tried_again(
    database, runner, build_id
):
    await place(database, build_id, runner.label)
    (got,) = await runner.lease()
    assert await runner.end(got, "cancelled") == {"state": "queued", "outcome": None}
    (again,) = await runner.lease()
    assert (again["placement_id"], again["attempt"]) == (got["placement_id"], 2)


async def test_another_team_s_runner_key_knows_no_such_runner(origin, database, runner, http):
    async with database.session() as session:
        key = await create_key(session, "other-runners", "runner", role="runner")
    async with httpx.AsyncClient(base_url=origin, headers={"Authorization": f"Bearer {key}"}) as other:
        assert (await other.post(f"/runner/{runner.id}/heartbeat", json={})).status_code == 404
