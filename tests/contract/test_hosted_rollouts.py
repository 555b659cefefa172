"""Rollouts that runners carry out, as their submitter, their runner and their agent see them; the runner is a stand-in,
and the agent is what it sends with the key that it is given."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from server.auth.service import create_key
from server.background.lost_runners import take_back_from_lost_runners
from store.database import AsyncDatabase
from store.tables import ApiKeyRow, HostedRolloutRow, PlacementRow, RunnerRow, TeamRow, TracePictureRow
from tests.contract.conftest import Team
from tests.contract.stand_in_runner import StandInRunner, add_environment, new_runner, runners_of

ENVIRONMENT = "Hosted_Sums"


@pytest.fixture(scope="module")
async def http(origin: str, database: AsyncDatabase) -> AsyncIterator[httpx.AsyncClient]:
    async with runners_of(origin, database) as http:
        yield http


@pytest.fixture
async def environment(database: AsyncDatabase, team: Team) -> None:
    await add_environment(database, team.name, "hosted-sums")


@pytest.fixture
async def runner(http: httpx.AsyncClient, team: Team, environment: None) -> StandInRunner:
    """Of this test's team alone."""
    return await new_runner(http, "any", team=team.name)


def submission(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    agent = {"type": "openai_compatible", "config": {"model": model["model_name"], "max_steps": 3, "later": True}}
    return {
        "trace_id": str(uuid.uuid4()),
        "job_id": str(uuid.uuid4()),
        "env": ENVIRONMENT,
        "task": "add",
        "slug": "add-1",
        "args": {"a": 1},
        "agent": agent,
        **changes,
    }


async def submit(team: Team, body: dict[str, Any]) -> dict[str, Any]:
    reply = await team.http.post("/v2/rollouts/submit", json=body)
    assert reply.status_code == 202, reply.text
    return reply.json()


async def trace_of(team: Team, body: dict[str, Any]) -> dict[str, Any]:
    reply = await team.http.get(f"/v2/trace/{body['trace_id']}")
    assert reply.status_code == 200, reply.text
    return reply.json()


class Agent:
    """What an agent sends, with the key that its runner was given."""

    def __init__(self, http: httpx.AsyncClient, placement: dict[str, Any], model: dict[str, Any]) -> None:
        self.http, self.model, self.trace = http, model["model_name"], placement["rollout"]["trace_id"]
        self.headers = {"Authorization": f"Bearer {placement['key']}"}

    async def chat(self, **headers: str) -> httpx.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": "6*6"}], "max_tokens": 2}
        sent = {"Trace-Id": uuid.UUID(self.trace).hex, **headers}
        return await self.http.post("/v1/chat/completions", json=body, headers={**self.headers, **sent})

    async def report(self, what: str, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post(f"/v2/trace/{self.trace}/{what}", json=body, headers=self.headers)

    async def exit(self, **changes: Any) -> httpx.Response:
        return await self.report("exit", {"status": "completed", "reward": 0.75, **changes})

    async def upload(self, **said: Any) -> httpx.Response:
        span = {
            "name": "s",
            "trace_id": uuid.UUID(self.trace).hex,
            "span_id": uuid.uuid4().hex[:16],
            "attributes": {"hud.schema": "hud.step.v1", "hud.payload": {"step_id": 1, "source": "user", **said}},
        }
        path = f"/trace/{self.trace}/telemetry-upload"
        return await self.http.post(path, json={"telemetry": [span]}, headers=self.headers)


async def lose(database: AsyncDatabase, runner: StandInRunner) -> None:
    changed = update(RunnerRow).where(RunnerRow.id == uuid.UUID(runner.id))
    async with database.session() as session:
        await session.execute(changed.values(heartbeat_at=RunnerRow.heartbeat_at - timedelta(minutes=1)))
    await take_back_from_lost_runners(database)


async def test_a_rollout_goes_from_the_queue_through_a_runner_to_its_end(team, model, runner):
    body = submission(model)
    assert await submit(team, body) == {"trace_id": body["trace_id"], "status": "pending"}
    assert (await trace_of(team, body))["status"] == "queued"
    (got,) = await runner.lease()
    rollout = got["rollout"]
    assert (got["kind"], got["environment"]["name"]) == ("rollout", "hosted-sums")
    assert {name: rollout[name] for name in ("task", "slug", "args", "agent")} == {
        name: body[name] for name in ("task", "slug", "args", "agent")
    }
    agent = Agent(runner.http, got, model)
    assert (await agent.report("enter", {"job_id": body["job_id"], "model": model["model_name"]})).status_code == 200
    assert (await agent.chat()).status_code == 200
    assert (await agent.upload()).status_code == 200
    assert (await agent.exit()).status_code == 200
    waiting = await trace_of(team, body)
    assert (waiting["status"], waiting["reward"]) == ("running", None), "its spans may be under way"
    assert await runner.end(got) == {"state": "ended", "outcome": "completed"}
    assert await runner.end(got) == {"state": "ended", "outcome": "completed"}
    ended = await trace_of(team, body)
    assert (ended["status"], ended["reward"], ended["num_turns"]) == ("completed", 0.75, 1)
    assert (ended["job_id"], ended["task_slug"]) == (body["job_id"], "add-1")
    batch = {"inputs": [body["trace_id"]]}
    assert (await team.train(model["id"], "forward-backward", batch)).status_code == 200


async def test_submitted_again_it_runs_once_and_another_under_its_id_is_refused(team, model, runner):
    body = submission(model)
    replies = await asyncio.gather(*(submit(team, body) for _ in range(5)))
    assert replies == [{"trace_id": body["trace_id"], "status": "pending"}] * 5
    assert len(await runner.lease()) == 1
    other = await team.http.post("/v2/rollouts/submit", json={**body, "args": {"a": 2}})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    entered = str(uuid.uuid4())
    await team.http.post(f"/v2/trace/{entered}/enter", json={})
    taken = await team.http.post("/v2/rollouts/submit", json={**body, "trace_id": entered})
    assert taken.status_code == 409


CONFIG = {"model": "{model}"}
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "environment": ({"env": "nowhere"}, 404, "no environment 'nowhere'"),
    "task": ({"task": "subtract"}, 422, "no task 'subtract'"),
    "args": ({"args": {"a": "x"}}, 422, "does not take these args"),
    "missing args": ({"args": {}}, 422, "does not take these args"),
    "gemini": ({"agent": {"type": "gemini", "config": CONFIG}}, 422, "agent type 'gemini' cannot be run here"),
    "cli": ({"agent": {"type": "codex_cli", "config": CONFIG}}, 422, "agent type 'codex_cli' cannot be run here"),
    "unknown type": ({"agent": {"type": "x", "config": CONFIG}}, 422, "no agent type 'x' here"),
    "model": ({"agent": {"type": "openai_compatible", "config": {"model": "no-such"}}}, 404, "no model 'no-such'"),
    "no model": ({"agent": {"type": "openai_compatible", "config": {}}}, 422, "agent.config.model is missing"),
    "base_url": (
        {"agent": {"type": "openai_compatible", "config": {**CONFIG, "base_url": "http://evil"}}},
        422,
        "agent.config.base_url",
    ),
    "headers": (
        {
            "agent": {
                "type": "openai_compatible",
                "config": {**CONFIG, "completion_kwargs": {"extra_headers": {"Trace-Id": "x"}}},
            }
        },
        422,
        "agent.config.completion_kwargs.extra_headers",
    ),
    "steps": (
        {"agent": {"type": "openai_compatible", "config": {**CONFIG, "max_steps": []}}},
        422,
        "agent.config.max_steps",
    ),
    "image": ({"runtime_config": {"image": "ubuntu"}}, 422, "runtime_config.image"),
    "gpu": ({"runtime_config": {"resources": {"gpu": {"count": 1}}}}, 422, "runtime_config.resources.gpu"),
    "verifier": ({"verifier": {"env": ENVIRONMENT, "id": "other"}}, 422, "no task 'other'"),
    "unknown field": ({"priority": 1}, 422, "priority"),
    "nul": ({"args": {"a": 1, "b": "\0"}}, 422, "NUL"),
    "nul in a name": ({"env": "a\0b"}, 422, "NUL"),
    "half a character": ({"slug": "\ud800"}, 422, "half"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_run_is_refused_by_name_and_leaves_nothing(team, model, environment, what):
    changes, status, says = BAD[what]
    body = submission(model, **_with_model(changes, model["model_name"]))
    reply = await team.http.post("/v2/rollouts/submit", content=_json(body))
    assert reply.status_code == status, reply.text
    assert says in reply.json()["detail"]
    assert (await team.http.get(f"/v2/trace/{body['trace_id']}")).status_code == 404


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def _with_model(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_model(item, name) for key, item in value.items()}
    return name if value == "{model}" else value


async def test_numbers_that_json_does_not_have_are_refused(team, model, environment):
    body = _json(submission(model, args={"a": 1, "b": math.nan}))
    assert (await team.http.post("/v2/rollouts/submit", content=body)).status_code == 422


async def test_of_several_attempts_the_last_alone_counts(team, model, runner, database, http):
    body = submission(model)
    await submit(team, body)
    (first,) = await runner.lease()
    lost = Agent(http, first, model)
    for report in (lost.report("enter", {"job_id": body["job_id"]}), lost.chat(), lost.upload(), lost.exit(reward=0.1)):
        assert (await report).status_code == 200
    assert (await trace_of(team, body))["num_turns"] == 1
    await lose(database, runner)
    assert (await trace_of(team, body))["status"] == "queued"
    other = await new_runner(http, "any", team=team.name)
    (second,) = await other.lease()
    assert (second["attempt"], (await trace_of(team, body))["num_turns"]) == (2, 0)
    for report in (lost.chat(), lost.upload(), lost.exit(reward=0.2), lost.report("enter", {})):
        reply = await report
        assert reply.status_code in (401, 403), reply.text
    agent = Agent(http, second, model)
    for report in (agent.chat(), agent.upload(), agent.exit(reward=0.9)):
        assert (await report).status_code == 200
    stale = await runner.say(first, "end", outcome="completed")
    assert (stale.status_code, stale.json()["code"]) == (409, "placement_lost")
    assert (await other.end(second))["outcome"] == "completed"
    ended = await trace_of(team, body)
    assert (ended["status"], ended["reward"], ended["num_turns"]) == ("completed", 0.9, 1)
    spans = (await team.http.get(f"/v2/traces/{body['trace_id']}/spans")).json()["spans"]
    assert len(spans) == 1


async def test_what_an_earlier_attempt_saw_is_forgotten(team, model, runner, database, http):
    body = submission(model)
    await submit(team, body)
    (first,) = await runner.lease()
    image = {"type": "image", "mimeType": "image/png", "data": base64.b64encode(bytes(3000)).decode()}
    lost = Agent(http, first, model)
    for report in (lost.report("enter", {"job_id": body["job_id"]}), lost.upload(content=[image])):
        assert (await report).status_code == 200
    named = select(TracePictureRow.name).where(TracePictureRow.trace_id == uuid.UUID(body["trace_id"]))
    async with database.session() as session:
        assert list(await session.scalars(named)) == [hashlib.sha256(bytes(3000)).hexdigest()]
    await lose(database, runner)
    await (await new_runner(http, "any", team=team.name)).lease()
    async with database.session() as session:
        assert list(await session.scalars(named)) == []


async def test_cancelled_it_ends_at_once_and_for_good(team, model, runner, database):
    queued, running = submission(model), submission(model)
    await submit(team, running)
    (got,) = await runner.lease()
    await submit(team, queued)
    for body in (queued, running):
        reply = await team.http.post("/v2/rollouts/cancel", json={"trace_id": body["trace_id"]})
        assert reply.json() == {"status": "accepted"}
        assert (await trace_of(team, body))["status"] == "cancelled"
    assert await runner.lease() == []
    assert (await runner.beat(got))["stop"] == [got["placement_id"]]
    agent = Agent(runner.http, got, model)
    for report in (agent.chat(), agent.exit(), agent.upload(), agent.report("enter", {})):
        assert (await report).status_code == 403
    assert (await runner.end(got))["outcome"] == "cancelled"
    ended = await trace_of(team, running)
    assert (ended["status"], ended["reward"]) == ("cancelled", None)
    assert await submit(team, running) == {"trace_id": running["trace_id"], "status": "cancelled"}


async def test_a_cancellation_that_overtakes_its_submission_starts_nothing(team, model, runner):
    body = submission(model)
    await team.http.post("/v2/rollouts/cancel", json={"trace_id": body["trace_id"]})
    assert await submit(team, body) == {"trace_id": body["trace_id"], "status": "cancelled"}
    assert await runner.lease() == []
    assert (await trace_of(team, body))["status"] == "cancelled"


async def test_a_cancelled_job_takes_its_rollouts_along_and_no_others(team, model, runner):
    job = str(uuid.uuid4())
    bodies = [submission(model, job_id=job) for _ in range(3)]
    other = submission(model)
    for body in (*bodies, other):
        await submit(team, body)
    reply = await team.http.post("/v2/rollouts/cancel_job", json={"job_id": job})
    assert reply.json() == {"cancelled": 3}
    assert [one["rollout"]["trace_id"] for one in await runner.lease()] == [other["trace_id"]]


async def test_an_agent_that_ends_without_an_exit_has_failed(team, model, runner):
    body = submission(model)
    await submit(team, body)
    (got,) = await runner.lease()
    assert (await runner.end(got))["outcome"] == "failed"
    ended = await trace_of(team, body)
    assert ended["status"] == "error"
    assert ended["error"] == "the agent ended without having reported how the rollout went"


async def test_a_failure_is_the_trace_s_error(team, model, runner):
    body = submission(model)
    await submit(team, body)
    (got,) = await runner.lease()
    await runner.end(got, "failed", error="the environment did not start: ModuleNotFoundError: nothing")
    assert (await trace_of(team, body))["error"] == "the environment did not start: ModuleNotFoundError: nothing"


async def test_an_agent_s_key_opens_its_runner_s_rollouts_and_nothing_else(team, model, runner, http, other_team):
    body = submission(model)
    await submit(team, body)
    (got,) = await runner.lease()
    elsewhere = submission(model)
    await submit(team, elsewhere)
    agent = Agent(http, got, model)
    for path in (
        "/v2/models",
        f"/v2/trace/{body['trace_id']}",
        "/v2/jobs",
        "/v2/auth/me",
        "/v2/team/keys",
        "/v1/models",
    ):
        assert (await http.get(path, headers=agent.headers)).status_code == 403, path
    assert (await http.post("/v2/rollouts/submit", json=elsewhere, headers=agent.headers)).status_code == 403
    assert (await http.post(f"/runner/{runner.id}/lease", json={"slots": 1}, headers=agent.headers)).status_code == 403
    assert (await agent.chat()).status_code == 200
    assert (await agent.chat(**{"Trace-Id": "none"})).status_code == 403
    assert (await agent.chat(**{"Trace-Id": elsewhere["trace_id"]})).status_code == 403
    strange = Agent(http, {**got, "rollout": {"trace_id": elsewhere["trace_id"]}}, model)
    for report in (strange.exit(), strange.upload(), strange.report("enter", {})):
        assert (await report).status_code == 403
    assert (await runner.beat(got))["keys"] == {got["team"]: got["key"]}
    await runner.end(got, "failed")
    assert (await agent.chat()).status_code == 403


async def test_what_an_environment_asks_is_no_sample_of_its_agent(team, model, runner, http):
    body = submission(model)
    await submit(team, body)
    (got,) = await runner.lease()
    agent = Agent(http, got, model)
    assert (await agent.chat(**{"Trace-Id": "", "Headway-Rollout": body["trace_id"]})).status_code == 200
    assert (await agent.chat(**{"Trace-Id": "", "Headway-Rollout": str(uuid.uuid4())})).status_code == 403
    assert (await trace_of(team, body))["num_turns"] == 0


async def test_nobody_but_its_runner_reports_about_a_hosted_rollout(team, model, runner):
    body = submission(model)
    await submit(team, body)
    for what, report in (("enter", {}), ("exit", {"status": "completed", "reward": 1.0})):
        reply = await team.http.post(f"/v2/trace/{body['trace_id']}/{what}", json=report)
        assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert (await trace_of(team, body))["status"] == "queued"


async def test_keys_of_agents_end_with_their_runner_and_are_on_no_list(team, model, runner, database):
    await submit(team, submission(model))
    (got,) = await runner.lease()
    async with database.session() as session:
        key = (await session.scalars(select(ApiKeyRow).where(ApiKeyRow.runner_id == uuid.UUID(runner.id)))).one()
        assert (key.role, key.scopes) == ("agent", ["sample"])
        assert key.expires_at is not None
        operator = await create_key(session, "operators", "admin", role="admin")
    headers = {"Authorization": f"Bearer {operator}"}
    assert (await team.http.delete(f"/v2/admin/keys/{key.id}", headers=headers)).status_code == 404
    listed = (await team.http.get(f"/v2/admin/keys?team_id={key.team_id}", headers=headers)).json()["items"]
    assert [row["name"] for row in listed] == ["test"]
    await lose(database, runner)
    async with database.session() as session:
        assert await session.get(ApiKeyRow, key.id) is None
    assert got["key"] not in str(key.__dict__)


async def test_agents_that_run_keep_their_key_when_that_of_their_runner_is_replaced(
    team, model, runner, origin, database, http
):
    await submit(team, submission(model))
    (got,) = await runner.lease()
    earlier = update(ApiKeyRow).where(ApiKeyRow.runner_id == uuid.UUID(runner.id))
    async with database.session() as session:
        await session.execute(earlier.values(expires_at=func.clock_timestamp() + timedelta(seconds=30)))
    async with runners_of(origin, database) as with_another_key:
        beat = await replace(runner, http=with_another_key).beat(got)
    assert beat["keys"][got["team"]] != got["key"]
    async with database.session() as session:
        of_runner = select(ApiKeyRow.expires_at - func.clock_timestamp()).where(
            ApiKeyRow.runner_id == uuid.UUID(runner.id)
        )
        left = list(await session.scalars(of_runner))
    assert len(left) == 2
    assert min(left) > timedelta(seconds=60)
    assert (await Agent(http, got, model).chat()).status_code == 200


async def test_no_more_rollouts_of_a_team_are_placed_than_it_may_run(team, model, runner, database):
    async with database.session() as session:
        await session.execute(update(TeamRow).where(TeamRow.name == team.name).values(max_concurrent_rollouts=2))
    for _ in range(4):
        await submit(team, submission(model))
    leased = await runner.lease()
    assert len(leased) == 2
    await runner.end(leased[0], "failed")
    assert len(await runner.lease()) == 1


async def test_a_deleted_rollout_stops(team, model, runner, database):
    body = submission(model)
    await submit(team, body)
    (got,) = await runner.lease()
    assert (await team.http.delete(f"/v2/traces/{body['trace_id']}")).status_code == 200
    assert (await runner.beat(got))["stop"] == [got["placement_id"]]
    assert (await runner.end(got))["outcome"] == "cancelled"
    assert (await team.http.get(f"/v2/trace/{body['trace_id']}")).status_code == 404
    async with database.session() as session:
        rollout = await session.get_one(HostedRolloutRow, uuid.UUID(got["placement_id"]))
        placement = await session.get_one(PlacementRow, rollout.placement_id)
    assert placement.outcome == "cancelled"
