"""Runs as they are carried out: a server's controller, a stand-in trainer, and a stand-in runner that plays."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from server.runs.loop.ended_rollouts import EndedRollouts
from store.database import AsyncDatabase
from store.notify import PLACEMENT_CHANGED, AsyncListener, Subscription, notify_async
from store.placements.ending import mark_ended
from store.tables import EvalRow, HostedRolloutRow, OperationRow, PlacementRow, RunRow, RunStepRow
from tests.contract.conftest import Team, batch
from tests.contract.runs_player import Play, playing
from tests.contract.runs_scene import deploy, run_request, taskset
from tests.contract.stand_in_runner import StandInRunner, new_runner, runners_of

LIVE = ("queued", "running", "pausing", "cancelling")


@pytest.fixture(scope="module")
async def http(origin: str, database: AsyncDatabase) -> AsyncIterator[httpx.AsyncClient]:
    async with runners_of(origin, database) as http:
        yield http


@pytest.fixture
async def runner(http: httpx.AsyncClient, team: Team, database: AsyncDatabase) -> StandInRunner:
    await deploy(database, team.name)
    return await new_runner(http, "any", team=team.name)


async def start(team: Team, model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    reply = await team.http.post("/v2/runs", json=run_request(model, **changes))
    assert reply.status_code == 201, reply.text
    return reply.json()


async def get(team: Team, run: dict[str, Any], what: str = "") -> Any:
    reply = await team.http.get(f"/v2/runs/{run['id']}{what}", params={"limit": 50} if what == "/events" else {})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def change(team: Team, run: dict[str, Any], what: str) -> dict[str, Any]:
    reply = await team.http.post(f"/v2/runs/{run['id']}/{what}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def until(team: Team, run: dict[str, Any], *states: str, timeout_s: float = 120) -> dict[str, Any]:
    async with asyncio.timeout(timeout_s):
        while (found := await get(team, run))["state"] not in states:
            assert found["state"] in (*LIVE, "paused"), found
            await asyncio.sleep(0.05)
    return found


async def messages(team: Team, run: dict[str, Any], kind: str) -> list[str]:
    events = (await get(team, run, "/events"))["items"]
    return [event["message"] for event in events if event["kind"] == kind]


async def until_held(database: AsyncDatabase, run: dict[str, Any], *, is_held: bool) -> None:
    """A process carries the run out, or none does."""
    query = select(RunRow.lease_owner.is_not(None)).where(RunRow.id == uuid.UUID(run["id"]))

    async def holds() -> bool | None:
        async with database.session() as session:
            return await session.scalar(query)

    async with asyncio.timeout(30):
        while await holds() is not is_held:  # noqa: ASYNC110 - a row offers no event
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("state", ["paused", "completed", "failed"])
async def test_a_run_that_somebody_else_ended_or_paused_is_left(team, model, runner, database, state):
    """Its controller would look at it again and again otherwise, without a pause."""
    run = await start(team, model)
    await until_held(database, run, is_held=True)
    async with database.session() as session:
        await session.execute(update(RunRow).where(RunRow.id == uuid.UUID(run["id"])).values(state=state))
    await until_held(database, run, is_held=False)


async def test_a_run_rolls_out_trains_and_evaluates_to_its_end(team, model, runner, database):
    held_out = {"taskset": taskset(2, name="held out"), "every": 2}
    config = {"steps": 3, "learning_rate": 0.5, "warmup_steps": 1, "seed": 7}
    run = await start(team, model, held_out=held_out, config=config, stop={"promote": "last"})
    async with playing(runner, Play()) as play:
        run = await until(team, run, "completed")
    assert (run["step"], run["stop_reason"], run["error"]) == (3, None, None)
    metrics = (await get(team, run, "/metrics"))["items"]
    assert [(row["kind"], row["step"]) for row in metrics] == [
        ("eval", 0), ("step", 1), ("step", 2), ("eval", 2), ("step", 3), ("eval", 3),
    ]  # fmt: skip
    steps = [row for row in metrics if row["kind"] == "step"]
    assert [row["learning_rate"] for row in steps] == [0.25, 0.5, 0.5]
    assert all((row["num_rollouts"], row["num_errors"], row["policy_lag_max"]) == (4, 0, 0.0) for row in steps)
    assert all(row["groups_without_spread"] == 2 for row in steps)
    assert [row["score"] for row in metrics if row["kind"] == "eval"] == [0.5, 0.5, 0.5]
    trained = [rollout for rollout in play.played if rollout["slug"] and rollout["job_id"] == run["job_id"]]
    assert len(trained) == 12
    kwargs = [rollout["agent"]["config"]["completion_kwargs"] for rollout in trained]
    assert {(one["temperature"], one["max_tokens"]) for one in kwargs} == {(1.0, 16)}
    assert len({one["seed"] for one in kwargs}) == 12
    greedy = [rollout for rollout in play.played if rollout["job_id"] != run["job_id"]]
    assert {rollout["agent"]["config"]["completion_kwargs"]["temperature"] for rollout in greedy} == {0.0}
    async with database.session() as session:
        of_model = OperationRow.model_id == uuid.UUID(model["id"])
        query = select(OperationRow.idempotency_key).where(of_model).order_by(OperationRow.sequence)
        keys = await session.scalars(query)
        assert [key.rpartition(":")[2] for key in keys] == ["fb2", "step"] * 3
        scores = list(await session.scalars(select(EvalRow).where(EvalRow.model_id == uuid.UUID(model["id"]))))
        assert {score.benchmark for score in scores} == {"held out"}
    checkpoints = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    assert len(checkpoints) == 3
    (await team.train(model["id"], "forward-backward", batch())).raise_for_status()


@pytest.mark.slow
async def test_a_rollout_that_fails_is_tried_again_and_its_group_left_out_in_the_end(team, model, runner):
    failures = dict[str, int]()

    def reward(rollout: dict[str, Any]) -> float | None:
        tries = failures[rollout["slug"]] = failures.get(rollout["slug"], 0) + 1
        if rollout["slug"] == "sum-0":
            return None
        return None if rollout["slug"] == "sum-1" and tries == 1 else 1.0

    config = {"steps": 1, "tasks_per_step": 4, "max_concurrent": 1}
    run = await start(team, model, config=config)
    async with playing(runner, Play(reward)):
        run = await until(team, run, "completed")
    (step,) = (await get(team, run, "/metrics"))["items"]
    assert (step["num_rollouts"], step["num_errors"], step["groups_dropped"]) == (6, 2, 1)
    assert failures == {"sum-0": 4, "sum-1": 3, "sum-2": 2, "sum-3": 2}
    (warning,) = await messages(team, run, "warning")
    assert "1 of 4 groups are left out: 'sum-0'" in warning


@pytest.mark.slow
async def test_a_group_that_lost_a_member_is_trained_on_where_that_is_allowed(team, model, runner, database):
    seen = list[str]()

    def reward(rollout: dict[str, Any]) -> float | None:
        seen.append(rollout["slug"])
        return None if rollout["slug"] == "sum-2" and seen.count("sum-2") == 1 else 1.0

    config = {"steps": 1, "group_size": 3, "min_group": 2, "tasks_per_step": 4, "rollout_tries": 1, "max_concurrent": 1}
    run = await start(team, model, config=config)
    async with playing(runner, Play(reward)):
        run = await until(team, run, "completed")
    (step,) = (await get(team, run, "/metrics"))["items"]
    assert (step["num_rollouts"], step["num_errors"], step["groups_dropped"]) == (11, 1, 0)
    async with database.session() as session:
        row = await session.get_one(RunStepRow, (uuid.UUID(run["id"]), 1, "train"))
    assert sorted(map(len, row.chosen["groups"])) == [2, 3, 3, 3]
    assert sorted(row.operation_ids) == ["fb2", "fb3", "step"]


async def test_a_run_whose_rollouts_fail_fails_with_the_first_reason_and_goes_on_when_it_is_resumed(
    team, model, runner
):
    run = await start(team, model, config={"steps": 1, "rollout_tries": 1})
    play = Play(lambda rollout: None)
    async with playing(runner, play):
        run = await until(team, run, "failed")
        assert "4 of the 4 rollouts of step 1 failed" in run["error"]
        assert "broke" in run["error"]
        (await team.train(model["id"], "forward-backward", batch())).raise_for_status()
        play.reward = lambda rollout: 1.0
        await change(team, run, "resume")
        run = await until(team, run, "completed")
    assert (run["step"], run["error"]) == (1, None)
    said = await messages(team, run, "warning")
    assert any("gradients that no step had applied were dropped" in one for one in said)


@pytest.mark.slow
async def test_a_run_pauses_after_its_step_and_resumes_behind_it(team, model, runner):
    play = Play()
    play.held.clear()
    run = await start(team, model, config={"steps": 3})
    async with playing(runner, play):
        while not await get(team, run, "/steps"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await change(team, run, "pause"))["state"] == "pausing"
        assert (await change(team, run, "pause"))["state"] == "pausing"
        play.held.set()
        paused = await until(team, run, "paused")
        assert paused["step"] == 1
        refused = await team.train(model["id"], "forward-backward", batch())
        assert refused.json()["code"] == "model_in_run"
        await change(team, run, "resume")
        run = await until(team, run, "completed")
    assert run["step"] == 3
    assert (await team.http.post(f"/v2/runs/{run['id']}/resume")).status_code == 409


async def test_cancelling_ends_rollouts_and_frees_the_model(team, model, runner, database):
    run = await start(team, model)
    async with asyncio.timeout(120):
        while not (placed := await runner.lease(wait_s=5)):
            pass
    assert (await team.http.delete(f"/v2/runs/{run['id']}")).status_code == 409
    await change(team, run, "cancel")
    await until(team, run, "cancelled")
    assert await messages(team, run, "cancelled") == ["before its first step was done; what was under way is dropped"]
    stopped = (await runner.beat(*placed))["stop"]
    assert set(stopped) == {placement["placement_id"] for placement in placed}
    (await team.train(model["id"], "forward-backward", batch())).raise_for_status()
    assert (await change(team, run, "cancel"))["state"] == "cancelled"
    deleted = await team.http.delete(f"/v2/runs/{run['id']}")
    assert deleted.status_code == 200, deleted.text
    assert (await team.http.get(f"/v2/runs/{run['id']}")).status_code == 404
    trace = await team.http.get(f"/v2/trace/{placed[0]['rollout']['trace_id']}")
    assert (trace.status_code, trace.json()["status"]) == (200, "cancelled")


@pytest.mark.slow
async def test_a_held_out_score_that_falls_twice_stops_the_run_and_sets_the_head_to_the_best(team, model, runner):
    evaluations = list[str]()

    def reward(rollout: dict[str, Any]) -> float:
        if not rollout["slug"].startswith("held"):
            return 1.0
        evaluations.append(rollout["trace_id"])
        return [0.5, 0.9, 0.6, 0.3, 0.2][len(evaluations) - 1]

    held_out = taskset(name="held out", tasks=[{"env": "sums", "id": "sum", "args": {"a": 1}, "slug": "held-1"}])
    run = await start(team, model, config={"steps": 4}, held_out={"taskset": held_out, "every": 1})
    async with playing(runner, Play(reward)):
        run = await until(team, run, "stopped")
    assert run["step"] == 3
    assert run["stop_reason"] == "held_out: the score fell 2 times in a row (0.9000 → 0.6000 → 0.3000)"
    metrics = (await get(team, run, "/metrics"))["items"]
    best = next(row for row in metrics if row["kind"] == "step" and row["step"] == 1)["checkpoint_id"]
    assert (run["best_held_out_score"], run["best_checkpoint_id"], run["checkpoint_id"]) == (0.9, best, best)
    head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
    assert head["checkpoint_id"] == best
    async with playing(runner, Play(lambda rollout: 1.0)):
        await change(team, run, "resume")
        resumed = await until(team, run, "completed")
    assert any("it goes on after step 1, not 3" in said for said in await messages(team, run, "warning"))
    assert resumed["step"] == 4


@pytest.mark.slow
async def test_a_moved_head_has_the_step_rolled_out_anew_from_there(team, model, runner, database):
    play = Play()
    run = await start(team, model, config={"steps": 2, "max_concurrent": 1})
    async with playing(runner, play):
        async with asyncio.timeout(120):
            while len(play.played) < 5:  # noqa: ASYNC110 - of four in the first step
                await asyncio.sleep(0.02)
        moved = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": None})
        assert moved.status_code == 200, moved.text
        run = await until(team, run, "completed")
    (warning,) = await messages(team, run, "warning")
    assert "the head was moved to the base weights" in warning
    assert len(play.played) == 12


@pytest.mark.slow
async def test_steps_overlap_where_a_policy_lag_is_allowed(team, model, runner, trainer):
    run = await start(team, model, config={"steps": 3, "max_policy_lag": 1})
    trainer.paused = True
    try:
        async with playing(runner, Play()) as play:
            async with asyncio.timeout(120):
                while len(play.played) < 8:  # noqa: ASYNC110 - two steps, and nothing was trained
                    await asyncio.sleep(0.02)
            assert (await get(team, run))["step"] == 0
            trainer.paused = False
            run = await until(team, run, "completed")
    finally:
        trainer.paused = False
    steps = (await get(team, run, "/metrics"))["items"]
    assert steps[0]["policy_lag_max"] == 0.0
    assert steps[1]["policy_lag_max"] == 1.0


async def test_events_are_streamed_and_go_on_behind_the_last(team, model, runner):
    run = await start(team, model)

    async def follow(after: int | None) -> list[str]:
        headers = {"Accept": "text/event-stream", **({} if after is None else {"Last-Event-ID": str(after)})}
        async with team.http.stream("GET", f"/v2/runs/{run['id']}/events", headers=headers) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            return [line async for line in reply.aiter_lines()]

    following = asyncio.create_task(follow(None))
    async with playing(runner, Play()):
        await until(team, run, "completed")
    lines = await asyncio.wait_for(following, 60)
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert kinds == ["created", "started", "step", "step", "completed"]
    ids = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert ids == [1, 2, 3, 4, 5]
    again = await follow(3)
    assert [line for line in again if line.startswith("id: ")] == ["id: 4", "id: 5"]
    refused = await team.http.get(
        f"/v2/runs/{run['id']}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "x"}
    )
    assert refused.status_code == 422


async def test_another_process_goes_on_where_a_dead_one_stood(team, model, runner, database, origin):
    """The lease of a process that is gone is taken by any other."""
    play = Play()
    play.held.clear()
    run = await start(team, model)
    async with playing(runner, play):
        await until(team, run, "running")
        async with database.session() as session:
            row = await session.get_one(RunRow, uuid.UUID(run["id"]), with_for_update=True)
            token, row.lease_owner, row.lease_token = row.lease_token, 1, row.lease_token + 1
        play.held.set()
        run = await until(team, run, "completed")
    async with database.session() as session:
        row = await session.get_one(RunRow, uuid.UUID(run["id"]))
    assert row.lease_token > token + 1
    assert (await get(team, run, "/metrics"))["items"][-1]["step"] == 2


async def test_runs_hear_of_their_own_rollouts_that_end_and_of_no_others(
    team, model, base, runner, database_url, database
):
    listener, ended_rollouts = AsyncListener(database_url, (PLACEMENT_CHANGED,)), EndedRollouts(database)
    runs = [await start(team, of) for of in (model, await team.fork(str(base.id)))]
    ids = [uuid.UUID(run["id"]) for run in runs]
    query = select(HostedRolloutRow.placement_id).where(HostedRolloutRow.run_id == ids[0])
    own = list[uuid.UUID]()
    async with asyncio.timeout(60):
        while not own:
            await runner.lease()
            async with database.session() as session:
                own = list(await session.scalars(query))
    subscriptions = [Subscription(), Subscription()]
    await listener.start()
    with listener.subscribe(PLACEMENT_CHANGED, None) as connected:
        assert await connected.wait(30)
    async with ended_rollouts.listening(listener):
        with (
            ended_rollouts.watching(ids[0], subscriptions[0]),
            ended_rollouts.watching(ids[1], subscriptions[1]),
        ):
            async with database.session() as session:
                await notify_async(session, PLACEMENT_CHANGED, own[0].hex)  # it goes on
            assert not await subscriptions[0].wait(0.5)
            async with database.session() as session:
                await mark_ended(session, await session.get_one(PlacementRow, own[0]), "failed", "it broke")
            assert await subscriptions[0].wait(30)
            assert not await subscriptions[1].wait(0)
    await listener.close()
