"""Held-out scores, alarms and what the guard does about them, over HTTP on a real database."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.auth.service import ensure_team
from server.catalog import heads
from server.evals.service import evaluation_traces
from server.guard import checking, rolling_back
from server.guard.checking import _BATCH, Due, _due, check_due
from server.guard.history import History
from server.guard.paths import Paths
from server.guard.reading import path_to, read_history
from server.guard.rules import RULES
from server.guard.rules.base import Parameters
from store.database import AsyncDatabase, driver_of
from store.tables import AlarmRow, CheckpointRow, EvalRow, EventRow, JobRow, ModelRow, OperationRow, SampleRow, TraceRow
from store.tree import move_head
from tests.contract.conftest import batch, serving
from tests.contract.stand_ins import add_checkpoint

WAIT_S = 20.0
ROLL_BACK = {"rules": {"held_out": {"actions": ["rollback", "pause"]}}}


@dataclass
class Receiver:
    """Takes webhooks, and answers with these statuses in turn."""

    url: str = ""
    answers: list[int] = field(default_factory=list[int])
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass
class HeldRollback:
    """Where a roll-back is: it began, it may go on, it came to an end."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    app, taken = FastAPI(), Receiver()

    @app.post("/{path:path}")
    async def take(request: Request) -> Response:
        taken.bodies.append(await request.json())
        return Response(status_code=taken.answers.pop(0) if taken.answers else 200)

    async with serving(app) as url:
        taken.url = url
        yield taken


@pytest.fixture
async def admin_of(origin: str, database: AsyncDatabase) -> AsyncIterator[Callable[[Any], Any]]:
    """HTTP clients of team_admins."""
    async with AsyncExitStack() as clients:

        async def client(team: Any) -> httpx.AsyncClient:
            async with database.session() as session:
                team_id = await ensure_team(session, team.name)
                key, _ = await issue(session, team_id, Grant("admin", "team_admin"), COMMAND_LINE)
            headers = {"Authorization": f"Bearer {key}"}
            return await clients.enter_async_context(
                httpx.AsyncClient(base_url=origin, headers=headers, timeout=30, trust_env=False, verify=False)
            )

        yield client


async def until(look: Callable[[], Any], wait_s: float = WAIT_S) -> Any:
    """What `look` finds, once it finds something."""
    async with asyncio.timeout(wait_s):
        while not (found := await look()):  # noqa: ASYNC110 - another process would be told as little
            await asyncio.sleep(0.05)
        return found


async def add_steps(database: AsyncDatabase, model_id: str, rewards: list[float], **metrics: float) -> list[str]:
    """Committed steps on top of the head, which moves along."""
    ids = list[str]()
    async with database.session() as session:
        model = await session.get_one(ModelRow, uuid.UUID(model_id))
        for reward in rewards:
            checkpoint = await add_checkpoint(session, model)
            checkpoint.mean_reward, checkpoint.num_traces = reward, 64
            checkpoint.metrics = {"reward_std": 0.1, "tokens:sum": 640.0, **metrics}
            model.head_checkpoint_id = checkpoint.id
            await session.flush()
            ids.append(str(checkpoint.id))
    return ids


async def post_score(team, model_id: str, score: float, checkpoint: str | None = None) -> dict[str, Any]:
    body = {"benchmark": "sums", "score": score, "n": 64, "checkpoint": checkpoint}
    reply = await team.http.post(f"/v2/models/{model_id}/evals", json=body)
    assert reply.status_code == 201, reply.text
    return reply.json()


async def hack(team, database: AsyncDatabase, model_id: str) -> list[str]:
    """The reward climbs; the held-out score is best at the second step, and falls twice."""
    ids = await add_steps(database, model_id, [0.2, 0.3])
    await post_score(team, model_id, 0.5)
    for rewards, score in (([0.5, 0.6], 0.4), ([0.8, 0.9], 0.3)):
        ids += await add_steps(database, model_id, rewards)
        await post_score(team, model_id, score)
    return ids


async def alarms(team, model_id: str, **params: Any) -> list[dict[str, Any]]:
    reply = await team.http.get(f"/v2/models/{model_id}/alarms", params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()["items"]


async def settled(team, database: AsyncDatabase, model_id: str) -> list[dict[str, Any]]:
    """The alarms, once everything was looked at and nothing is pending."""
    unsettled = ""

    async def look() -> list[Any] | None:
        nonlocal unsettled
        async with database.session() as session:
            steps = (
                select(func.count())
                .select_from(CheckpointRow)
                .where(CheckpointRow.model_id == uuid.UUID(model_id), CheckpointRow.guard_checked_at.is_(None))
            )
            unchecked = await session.scalar(steps)
        evals = (await team.http.get(f"/v2/models/{model_id}/evals")).json()["items"]
        async with database.session() as session:
            ids = [uuid.UUID(one["id"]) for one in evals]
            waiting = (
                select(func.count()).select_from(EvalRow).where(EvalRow.id.in_(ids), EvalRow.guard_checked_at.is_(None))
            )
            unchecked = (unchecked or 0) + (await session.scalar(waiting) or 0)
        found = await alarms(team, model_id)
        unsettled = f"{unchecked} not looked at; {found}"
        return [found] if not unchecked and all(one["state"] != "pending" for one in found) else None

    try:
        return (await until(look))[0]
    except TimeoutError:
        raise AssertionError(f"not settled in {WAIT_S:.0f} s: {unsettled}") from None


async def test_a_hack_rolls_the_head_back_to_the_best_checkpoint_and_pauses(team, model, database):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    ids = await hack(team, database, model_id)
    (alarm,) = await settled(team, database, model_id)
    assert (alarm["rule"], alarm["state"], alarm["checkpoint_id"]) == ("held_out", "done", ids[-1])
    assert "sums fell over 2 evaluations in a row (0.500 at 0002-" in alarm["message"]
    assert alarm["evidence"]["scores"] == [0.5, 0.4, 0.3]
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[1]
    refused = await team.train(model_id, "forward-backward", batch())
    assert (refused.status_code, refused.json()["code"]) == (409, "paused")
    assert "by the guard: held_out: sums fell" in refused.json()["detail"]
    async with database.session() as session:
        query = select(EventRow.action).where(EventRow.subject_id == uuid.UUID(model_id), EventRow.actor == "guard")
        assert set(await session.scalars(query)) == {"alarm", "pause", "set_head", "alarm_acted"}


async def test_an_alarm_is_undone_and_its_rule_is_silent_about_what_was_seen(team, model, database):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    ids = await hack(team, database, model_id)
    (alarm,) = await settled(team, database, model_id)
    undone = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert (undone.status_code, undone.json()["state"]) == (200, "undone"), undone.text
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[-1]
    assert (await team.http.get(f"/v2/models/{model_id}")).json()["paused_at"] is None
    again = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert (again.status_code, again.json()["detail"]) == (409, "this alarm was undone already")
    await add_steps(database, model_id, [0.95])
    await post_score(team, model_id, 0.25)
    assert len(await settled(team, database, model_id)) == 1, "one evaluation since is too little to warn again"


async def test_a_head_that_moved_on_is_not_undone(team, model, database):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    await hack(team, database, model_id)
    (alarm,) = await settled(team, database, model_id)
    (await team.http.post(f"/v2/models/{model_id}/resume")).raise_for_status()
    await add_steps(database, model_id, [0.4])
    refused = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert refused.status_code == 409
    assert "the head has moved since" in refused.json()["detail"]


@pytest.fixture
def held_rollback(monkeypatch: pytest.MonkeyPatch) -> HeldRollback:
    """The guard's next roll-back, which waits where samplers load the checkpoint."""
    held = HeldRollback()

    async def load_adapter(*arguments: Any) -> Any:
        held.began.set()
        await held.may_go_on.wait()
        return await heads_load_adapter(*arguments)

    async def roll_to(*arguments: Any) -> Any:
        monkeypatch.setattr("server.catalog.heads.load_adapter", load_adapter)
        try:
            return await guards_roll_to(*arguments)
        finally:
            held.ended.set()

    heads_load_adapter, guards_roll_to = heads.load_adapter, rolling_back.roll_to
    monkeypatch.setattr("server.guard.rolling_back.roll_to", roll_to)
    return held


async def test_a_rollback_does_not_land_after_its_alarm_was_undone(team, model, database, held_rollback):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    ids = await hack(team, database, model_id)
    await held_rollback.began.wait()
    (alarm,) = await alarms(team, model_id)
    undone = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert (undone.status_code, undone.json()["state"]) == (200, "undone"), undone.text
    held_rollback.may_go_on.set()
    await held_rollback.ended.wait()
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[-1]
    (alarm,) = await settled(team, database, model_id)
    assert (alarm["state"], "rollback" in alarm["outcome"]) == ("undone", False)
    assert (await team.http.get(f"/v2/models/{model_id}")).json()["paused_at"] is None


async def test_a_rollback_leaves_a_head_alone_that_was_moved_while_samplers_loaded(
    team, model, database, held_rollback
):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    ids = await hack(team, database, model_id)
    await held_rollback.began.wait()
    async with database.session() as session:
        await move_head(session, uuid.UUID(model_id), uuid.UUID(ids[0]))
    held_rollback.may_go_on.set()
    (alarm,) = await settled(team, database, model_id)
    assert (alarm["state"], "was left there" in alarm["outcome"]["rollback"]) == ("done", True)
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[0]


async def test_an_undo_goes_to_where_training_was_when_the_rollback_landed(team, model, database, held_rollback):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    ids = await hack(team, database, model_id)
    await held_rollback.began.wait()
    (later,) = await add_steps(database, model_id, [0.9])
    held_rollback.may_go_on.set()
    (alarm,) = await settled(team, database, model_id)
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[1]
    (await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")).raise_for_status()
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == later


async def test_a_step_that_is_committed_while_samplers_load_is_not_lost_by_an_undo(
    team, model, database, monkeypatch: pytest.MonkeyPatch
):
    model_id = model["id"]
    (await team.http.put(f"/v2/models/{model_id}/guard", json=ROLL_BACK)).raise_for_status()
    await hack(team, database, model_id)
    (alarm,) = await settled(team, database, model_id)
    steps, load_adapter = list[str](), heads.load_adapter

    async def load(*arguments: Any) -> Any:
        steps.extend(await add_steps(database, model_id, [0.4]))
        return await load_adapter(*arguments)

    monkeypatch.setattr("server.catalog.heads.load_adapter", load)
    refused = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert (refused.status_code, "the head has moved since" in refused.json()["detail"]) == (409, True), refused.text
    assert [(await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"]] == steps
    assert [one["state"] for one in await alarms(team, model_id) if one["id"] == alarm["id"]] == ["done"]
    assert (await team.http.get(f"/v2/models/{model_id}")).json()["paused_at"] is not None


async def test_what_is_late_is_looked_at_in_the_order_in_which_it_came(team, model, database, monkeypatch):
    """The last checkpoint would be looked at before the score of one before it, whose alarm would then be a second."""
    with monkeypatch.context() as patch:
        patch.setattr("server.guard.watch.check_due", lambda database, paths: asyncio.sleep(0, 0))
        await hack(team, database, model["id"])
        await add_steps(database, model["id"], [0.95])
        await post_score(team, model["id"], 0.2)
    (alarm,) = await settled(team, database, model["id"])
    assert alarm["evidence"]["scores"] == [0.5, 0.4, 0.3]


async def test_by_default_an_alarm_is_only_noted_and_raised_once(team, model, database):
    model_id = model["id"]
    ids = await hack(team, database, model_id)
    ids += await add_steps(database, model_id, [0.95])
    await post_score(team, model_id, 0.2)
    (alarm,) = await settled(team, database, model_id)
    assert (alarm["state"], alarm["actions"]) == ("noted", [])
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[-1]
    refused = await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")
    assert (refused.status_code, "acknowledge it" in refused.json()["detail"]) == (409, True)
    path = f"/v2/models/{model_id}/alarms/{alarm['id']}/acknowledge"
    reply = await team.http.post(path, json={"comment": "known"})
    assert reply.json()["acknowledged_at"] is not None
    assert await alarms(team, model_id, only_open=True) == []


async def test_a_rollback_without_held_out_scores_pauses_instead(team, model, database):
    model_id = model["id"]
    rules = {"rules": {"kl_sampler": {"actions": ["rollback"]}}}
    (await team.http.put(f"/v2/models/{model_id}/guard", json=rules)).raise_for_status()
    ids = await add_steps(database, model_id, [0.5, 0.5], **{"kl_sampling_trainer_k3:mean": 3.0})
    (alarm,) = await settled(team, database, model_id)
    assert "the model was paused instead" in alarm["outcome"]["rollback"]
    assert (await team.http.get(f"/v2/models/{model_id}/head")).json()["checkpoint_id"] == ids[-1]
    assert "kl_sampler" in (await team.http.get(f"/v2/models/{model_id}")).json()["pause_reason"]
    (await team.http.post(f"/v2/models/{model_id}/alarms/{alarm['id']}/undo")).raise_for_status()
    assert (await team.http.get(f"/v2/models/{model_id}")).json()["paused_at"] is None


async def test_numbers_that_are_not_finite_pause_the_model_unasked(team, model, database):
    async with database.session() as session:
        session.add(
            OperationRow(
                model_id=uuid.UUID(model["id"]),
                sequence=1,
                kind="optim_step",
                state="failed",
                payload=b"-",
                head_version=0,
                error_code="non_finite",
                error_message="a step of learning rate 1e9 would leave weights that are not finite",
            )
        )
    (alarm,) = await until(lambda: alarms(team, model["id"]))
    assert (alarm["rule"], alarm["state"], alarm["actions"]) == ("non_finite", "done", ["pause"])
    assert "learning rate 1e9" in (await team.http.get(f"/v2/models/{model['id']}")).json()["pause_reason"]


async def test_requests_are_answered_while_a_rule_computes(team, model, database, monkeypatch):
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def at_length(history: History, parameters: Parameters) -> None:
        if history.model == model["model_name"]:
            began.set()
            may_end.wait(WAIT_S)
            ended.set()

    monkeypatch.setattr(RULES["spread"], "find", at_length)
    await add_steps(database, model["id"], [0.5])
    assert await asyncio.to_thread(began.wait, WAIT_S)
    assert (await team.http.get(f"/v2/models/{model['id']}")).status_code == 200
    assert not ended.is_set()
    may_end.set()
    assert await settled(team, database, model["id"]) == []


async def test_many_servers_raise_an_alarm_once(team, model, database):
    model_id = model["id"]
    await add_steps(database, model_id, [0.5] * 3, **{"kl_sampling_trainer_k3:mean": 3.0})
    await asyncio.gather(*(check_due(database, Paths()) for _ in range(4)))
    await settled(team, database, model_id)
    async with database.session() as session:
        found = select(func.count()).select_from(AlarmRow).where(AlarmRow.model_id == uuid.UUID(model_id))
        assert await session.scalar(found) == 1


async def test_many_steps_of_one_model_delay_no_other(team, model, base, database):
    other = await team.fork(str(base.id))
    async with database.session() as session:
        for model_id, num_steps in ((model["id"], 2 * _BATCH), (other["id"], 1)):
            row = await session.get_one(ModelRow, uuid.UUID(model_id))
            for _ in range(num_steps):
                await add_checkpoint(session, row)
        assert uuid.UUID(other["id"]) in {due.model_id for due in await _due(session)}
        await session.rollback()


async def test_whoever_comes_while_many_steps_are_looked_at_takes_a_turn(team, model, base, database, monkeypatch):
    """A look that is over its time asks anew what is due, and a round of looks ends when nothing is."""
    looked_at, came, here = list[str](), asyncio.Event(), asyncio.get_running_loop()
    other = await team.fork(str(base.id))

    async def slowly(session: AsyncSession, due: Due, paths: Paths) -> bool:
        looked_at.append(str(due.model_id))
        if not came.is_set():
            came.set()
            added = asyncio.run_coroutine_threadsafe(add_steps(database, other["id"], [0.5]), here)
            await asyncio.wrap_future(added)  # the guard's loop is another one
        return await really(session, due, paths)

    really = checking._check
    monkeypatch.setattr(checking, "_check", slowly)
    monkeypatch.setattr(checking, "_LOOK_S", 0.0)
    await add_steps(database, model["id"], [0.5] * 6)
    await settled(team, database, model["id"])
    await settled(team, database, other["id"])
    assert other["id"] in looked_at[:3], "between the steps of the first, not after them"
    assert sorted(looked_at.count(one["id"]) for one in (model, other)) == [1, 6]


async def test_a_webhook_is_told_and_tried_again(team, model, database, receiver, admin_of):
    model_id = model["id"]
    receiver.answers = [503, 200]
    guard = {"rules": {"kl_sampler": {"actions": ["webhook"]}}, "webhook_url": f"{receiver.url}/secret-path"}
    refused = await team.http.put(f"/v2/models/{model_id}/guard", json=guard)
    assert refused.status_code == 403, "a member sets no webhook"
    admin = await admin_of(team)
    (await admin.put(f"/v2/models/{model_id}/guard", json=guard)).raise_for_status()
    assert (await team.http.get(f"/v2/models/{model_id}/guard")).json()["webhook_url"] is None
    await add_steps(database, model_id, [0.5] * 2, **{"kl_sampling_trainer_k3:mean": 3.0})
    (alarm,) = await settled(team, database, model_id)
    assert (alarm["state"], len(receiver.bodies)) == ("done", 2)
    assert receiver.bodies[0]["message"] == alarm["message"]
    assert "secret-path" not in str(alarm)


async def test_an_evaluation_job_is_scored_per_checkpoint_and_not_trained_on(team, model, database):
    model_id, job_id = model["id"], uuid.uuid4().hex
    first, second = await add_steps(database, model_id, [0.2, 0.4])
    (await team.http.post(f"/v2/trace/job/{job_id}/enter", json={"name": "held-out sums, step 12 (4 tasks)"}))
    served = [first, first, second, None]
    traces = [await rolled_out(team, database, model_id, job_id, index % 2, at) for index, at in enumerate(served)]

    async def scores() -> list[dict[str, Any]]:
        return (await team.http.get(f"/v2/models/{model_id}/evals", params={"benchmark": "held-out sums"})).json()[
            "items"
        ]

    async def all_scores() -> list[dict[str, Any]] | None:
        """The job was perhaps scored before all of its rollouts were there; then it is scored again."""
        known = await scores()
        return known if sum(one["n"] for one in known) == len(served) and all(one["mixed"] for one in known) else None

    found = {one["checkpoint_id"]: one for one in await until(all_scores)}
    assert {key: (one["score"], one["n"], one["mixed"]) for key, one in found.items()} == {
        first: (0.5, 2, True),
        second: (0.0, 1, True),
        None: (1.0, 1, True),
    }
    assert found[second]["training_reward"] == 0.4
    refused = await team.train(model_id, "forward-backward", batch(*traces))
    assert refused.status_code == 422
    assert "is held out from training" in refused.json()["detail"]
    unmarked = await team.http.post(f"/v2/jobs/{job_id}/evaluation", json={"evaluation": False})
    assert unmarked.json() == {"job_id": str(uuid.UUID(job_id)), "evaluation": False, "benchmark": None}
    assert await scores() == []
    async with database.session() as session:
        team_id = (await session.get_one(ModelRow, uuid.UUID(model_id))).team_id
        assert await evaluation_traces(session, team_id, uuid.UUID(model_id), [uuid.UUID(one) for one in traces]) == {}


async def test_a_job_is_flagged_by_hand(team, model, database):
    model_id, job_id = model["id"], uuid.uuid4().hex
    (await team.http.post(f"/v2/trace/job/{job_id}/enter", json={"name": "autumn"})).raise_for_status()
    await rolled_out(team, database, model_id, job_id, 1.0, None)
    body = {"benchmark": "Autonomy-10"}
    (await team.http.post(f"/v2/jobs/{job_id}/evaluation", json=body)).raise_for_status()

    async def scores() -> list[dict[str, Any]]:
        return (await team.http.get(f"/v2/models/{model_id}/evals")).json()["items"]

    (score,) = await until(scores)
    assert (score["benchmark"], score["score"], score["checkpoint_id"], score["mixed"]) == (
        "Autonomy-10",
        1.0,
        None,
        False,
    )
    missing = await team.http.post(f"/v2/jobs/{uuid.uuid4()}/evaluation", json={})
    assert missing.status_code == 404


async def rolled_out(team, database, model_id: str, job_id: str, reward: float, checkpoint: str | None) -> str:
    """A rollout with one sample that the gateway recorded."""
    trace_id = uuid.uuid4()
    enter = {"job_id": job_id, "task_slug": "t", "model": model_id}
    (await team.http.post(f"/v2/trace/{trace_id.hex}/enter", json=enter)).raise_for_status()
    leave = {"status": "completed", "reward": float(reward)}
    (await team.http.post(f"/v2/trace/{trace_id.hex}/exit", json=leave)).raise_for_status()
    async with database.session() as session:
        trace = await session.scalar(select(TraceRow).where(TraceRow.id == trace_id))
        assert trace is not None
        trace.checkpoint_ids = [uuid.UUID(checkpoint)] if checkpoint else []
        session.add(
            SampleRow(
                team_id=trace.team_id,
                trace_id=trace_id,
                digest=trace_id.bytes,
                prompt_length=1,
                output_length=1,
                prompt_digest=b"p",
                end_digest=b"e",
                tokens=b"-",
                served_at=func.clock_timestamp(),
                model_id=uuid.UUID(model_id),
                checkpoint_id=uuid.UUID(checkpoint) if checkpoint else None,
            )
        )
    return trace_id.hex


async def test_parts_of_the_reward_are_averaged_by_step_over_what_was_not_an_evaluation(team, model, database):
    """Of rollouts that a checkpoint on the path served, and of numbers from 0 to 1 with a name."""
    first, second = await add_steps(database, model["id"], [0.5, 0.5])
    training, scored = uuid.uuid4(), uuid.uuid4()
    for job_id in (training, scored):
        (await team.http.post(f"/v2/trace/job/{job_id.hex}/enter", json={"name": "a job"})).raise_for_status()
    (await team.http.post(f"/v2/jobs/{scored.hex}/evaluation", json={"evaluation": True})).raise_for_status()
    odd: list[Any] = [{"name": "format", "value": 7}, {"name": "format", "value": "1"}, {"name": 3, "value": 1}]
    for job_id, checkpoint, value, others in (
        (training, first, 0.25, odd),
        (training, first, 0.75, []),
        (training, second, 1.0, [{"name": "style", "value": 0.5}]),
        (scored, second, 0.0, []),
        (training, None, 0.0, []),
    ):
        trace_id = await rolled_out(team, database, model["id"], job_id.hex, 1.0, checkpoint)
        async with database.session() as session:
            trace = await session.scalar(select(TraceRow).where(TraceRow.id == uuid.UUID(trace_id)))
            assert trace is not None
            trace.evaluation_result = {"subscores": [{"name": "format", "value": value}, *others]}
    async with database.session() as session:
        row, connection = await session.get_one(ModelRow, uuid.UUID(model["id"])), await driver_of(session)
        path, _ = await path_to(connection, uuid.UUID(second))
        history = await read_history(connection, cast("Any", row), path)
    assert history.components == {"format": [(1, 0.5), (2, 1.0)], "style": [(2, 0.5)]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"rules": {"nope": {}}}, "there is no rule 'nope'"),
        ({"rules": {"held_out": {"parameters": {"nope": 1}}}}, "this rule has evaluations"),
        ({"rules": {"held_out": {"parameters": {"evaluations": 1.5}}}}, "must be a whole number"),
        ({"rules": {"kl_base": {"parameters": {"bound": -1}}}}, "must not be negative"),
        ({"rules": {"kl_base": {"actions": ["webhook"]}}}, "there is no webhook_url"),
        ({"rules": {"kl_base": {"actions": ["explode"]}}}, "should be 'webhook', 'pause' or 'rollback'"),
        ({"eval_jobs": ["\x00"]}, "printable"),
    ],
)
async def test_a_guard_that_cannot_be_is_refused(standing_team, standing_model, body, said):
    reply = await standing_team.http.put(f"/v2/models/{standing_model['id']}/guard", json=body)
    assert reply.status_code == 422
    assert said in reply.text


@pytest.mark.parametrize("url", ["ftp://host/", "file:///etc/passwd", "http://", "https://user:pw@host/", "nonsense"])
async def test_a_webhook_goes_to_http_urls_alone(team, model, admin_of, url):
    admin = await admin_of(team)
    reply = await admin.put(f"/v2/models/{model['id']}/guard", json={"webhook_url": url})
    assert reply.status_code == 422, reply.text


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://[::1]:9000/x", "http://0x7f000002/"])
async def test_a_webhook_that_would_go_nowhere_is_refused_when_it_is_set(team, model, admin_of, url):
    admin = await admin_of(team)
    reply = await admin.put(f"/v2/models/{model['id']}/guard", json={"webhook_url": url})
    assert reply.status_code == 422, reply.text
    assert "where no webhook goes; an operator can allow it" in reply.json()["detail"]


async def test_trainability_says_which_tasks_teach(team, model, database):
    async with database.session() as session:
        team_id = (await session.get_one(ModelRow, uuid.UUID(model["id"]))).team_id
        assert team_id is not None
        job = JobRow(team_id=team_id, id=uuid.uuid4(), name="training", is_evaluation=False)
        session.add(job)
        await session.flush()
        rewards = {"easy": [1, 1, 1, 1], "hard": [0, 0, 0, 0], "good": [0, 1, 1, 0], "new": [1]}
        for task, given in rewards.items():
            for group in range(3 if task != "new" else 1):
                for reward in given:
                    trace = TraceRow(team_id=team_id, id=uuid.uuid4(), job_id=job.id, model_id=uuid.UUID(model["id"]))
                    trace.group_id, trace.task_slug = f"{task}-{group}", task
                    trace.status, trace.reward = "completed", float(reward)
                    session.add(trace)
    path, found, cursor = f"/v2/models/{model['id']}/trainability", list[dict[str, Any]](), None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await team.http.get(path, params=params)).json()
        found, cursor = found + page["items"], page["next_cursor"]
        if cursor is None:
            break
    assert [(one["task"], one["advice"], one["signal"], one["num_groups"]) for one in found] == [
        ("easy", "make_harder", 0.0, 3),
        ("good", "keep", 1.0, 3),
        ("hard", "drop", 0.0, 3),
        ("new", "unknown", None, 0),
    ]
    assert sum(period["num_rollouts"] for period in found[1]["over_time"]) == 12
    assert found[1]["reward_spread"] == 0.5
    assert (await team.http.get(path, params={"cursor": "%"})).status_code == 422
