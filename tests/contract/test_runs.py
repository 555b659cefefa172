"""`/v2/runs` on the wire."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.conftest import batch
from tests.contract.runs_scene import deploy, run_request, taskset

NEGATIVE_CONFIG = {
    "a temperature that is off-policy": ({"temperature": 0.7}, "temperature is 0.7: it must be 1"),
    "an unknown key": ({"top_p": 0.9}, "config.top_p"),
    "a group of one": ({"group_size": 1}, "config.group_size: should be greater than or equal to 2"),
    "no steps": ({"steps": 0}, "config.steps: should be greater than or equal to 1"),
    "an unknown loss": ({"loss_fn": "reinforce"}, "unknown loss_fn 'reinforce'"),
    "a loss's unknown key": ({"loss_fn_config": {"beta": 1}}, "importance_sampling has no key 'beta'"),
    "more tasks a step than there are": ({"tasks_per_step": 5}, "the taskset 'sums' has 4 tasks"),
    "a minimum above the group": ({"min_group": 3}, "min_group is 3, more than group_size, which is 2"),
    "more tokens than the context has": ({"max_tokens": 512}, "the context of 'org/Tiny-Base' has 512 tokens"),
    "more substeps than rollouts": ({"num_substeps": 5}, "num_substeps is 5, but a step has 4 rollouts"),
    "a learning rate that is no number": ({"learning_rate": "fast"}, "config.learning_rate: should be a valid number"),
}


@pytest.fixture
async def sums(team, database):
    await deploy(database, team.name)


async def start(team, request, **headers):
    return await team.http.post("/v2/runs", json=request, headers=headers)


async def cancelled(team, run):
    """So that no other test finds the model busy."""
    reply = await team.http.post(f"/v2/runs/{run['id']}/cancel")
    assert reply.status_code == 200, reply.text


async def test_a_run_says_every_choice_with_its_value(team, model, sums):
    reply = await start(team, {"model": model["model_name"], "taskset": taskset(), "config": {"max_tokens": 16}})
    assert reply.status_code == 201, reply.text
    run = reply.json()
    assert run["config"] == {
        "method": "reinforcement",
        "steps": 50,
        "group_size": 8,
        "tasks_per_step": 4,
        "seed": 0,
        "learning_rate": 1e-5,
        "lr_schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "loss_fn": "importance_sampling",
        "loss_fn_config": None,
        "kl_coef": 0.0,
        "num_substeps": 1,
        "reward_scale": 1.0,
        "max_turns": 10,
        "max_tokens": 16,
        "temperature": 1.0,
        "rollout_timeout_s": 900.0,
        "rollout_tries": 2,
        "max_concurrent": 32,
        "save_steps": 1,
        "min_group": 8,
        "curriculum": "none",
        "max_policy_lag": 0,
    }
    assert run["stop"] == {
        "held_out_drops": 2,
        "min_delta": 0.0,
        "reward_at_least": None,
        "max_tokens": None,
        "max_seconds": None,
        "max_rollout_errors": 0.5,
        "promote": "best",
    }
    assert (run["state"], run["step"], run["steps"], run["model"]) == ("queued", 0, 50, model["model_name"])
    assert (run["taskset"], run["num_tasks"], run["held_out"]) == ("sums", 4, None)
    events = (await team.http.get(f"/v2/runs/{run['id']}/events")).json()["items"]
    assert (events[0]["seq"], events[0]["kind"], events[0]["data"]["config"]) == (1, "created", run["config"])
    listed = (await team.http.get("/v2/runs", params={"model": model["id"]})).json()["items"]
    assert [row["id"] for row in listed] == [run["id"]]
    await cancelled(team, run)


@pytest.mark.parametrize("case", NEGATIVE_CONFIG)
async def test_what_does_not_fit_is_refused_by_name(case, team, model, sums):
    changes, sentence = NEGATIVE_CONFIG[case]
    reply = await start(team, run_request(model, config=changes))
    assert (reply.status_code, sentence in reply.json()["detail"]) == (422, True), reply.text
    assert (await team.http.get("/v2/runs")).json()["items"] == []


def _nested(levels: int) -> list[Any]:
    return [_nested(levels - 1)] if levels else []


async def test_the_culprit_of_a_refusal_is_named(team, other_team, base, model, sums):
    async def refused(**changes):
        reply = await start(team, run_request(model, **changes))
        return reply.status_code, reply.json()["detail"]

    unknown = str(uuid.uuid4())
    assert await refused(model=unknown) == (404, f"there is no model {unknown!r}; see 'hud models list'")
    assert (await refused(model=str(base.id)))[0] == 403
    status, detail = await refused(taskset="nowhere")
    assert (status, "taskset: the team has no taskset 'nowhere'" in detail) == (404, True)
    status, detail = await refused(held_out="nowhere")
    assert (status, "held_out.taskset" in detail) == (404, True)
    elsewhere = taskset(tasks=[{"env": "elsewhere", "id": "sum"}])
    status, detail = await refused(taskset=elsewhere)
    assert (status, "no environment 'elsewhere' is deployed here" in detail) == (404, True)
    status, detail = await refused(taskset=taskset(tasks=[{"env": "sums", "id": "product"}]))
    assert (status, "has no task 'product'" in detail) == (422, True)
    status, detail = await refused(taskset=taskset(tasks=[{"env": "sums", "id": "sum", "args": {"a": "x"}}]))
    assert (status, "does not take these args" in detail) == (422, True)
    for setting, culprit in (
        ({"runtime_config": {"resources": {"gpu": {"count": 1}}}}, "runtime_config.resources.gpu"),
        ({"verifier": {"env": "sums", "id": "sum", "args": {"a": 1}, "runtime_config": {"image": "x"}}}, ".image"),
        ({"verifier": {"env": "sums", "id": "sum", "args": {"a": 1}, "verifier": {}}}, "verifier.verifier"),
        ({"verifier": {"env": "sums", "args": {"a": 1}}}, "give its env, its id and its args"),
        ({"verifier": {"env": "sums", "id": "product", "args": {"a": 1}}}, "has no task 'product'"),
        ({"agent_config": {"max_steps": "many"}}, "agent.config.max_steps"),
        ({"agent_config": {"novel": _nested(200)}}, "agent_config is nested too deeply"),
        ({"agent_config": {"base_url": "http://elsewhere"}}, "agent.config.base_url"),
    ):
        unplayable = taskset(tasks=[{"env": "sums", "id": "sum", "args": {"a": 1}, **setting}])
        for changes in ({"taskset": unplayable}, {"held_out": {"taskset": unplayable, "every": 1}}):
            status, detail = await refused(**changes)
            assert (status, culprit in detail) == (422, True), detail
    reply = await other_team.http.post("/v2/runs", json=run_request(model))
    assert reply.status_code == 404


async def test_one_key_makes_one_run(team, model, sums):
    request = run_request(model)
    first = await start(team, request, **{"Idempotency-Key": "once"})
    again = await start(team, request, **{"Idempotency-Key": "once"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = await start(team, run_request(model, config={"steps": 3}), **{"Idempotency-Key": "once"})
    assert (other.status_code, "used for another run" in other.json()["detail"]) == (409, True)
    await cancelled(team, first.json())


async def test_a_model_in_a_run_is_trained_by_nobody_else(team, model, sums):
    (await team.train(model["id"], "forward-backward", batch())).raise_for_status()
    run = (await start(team, run_request(model))).json()
    for call, body in (("forward-backward", batch()), ("optim-step", {"learning_rate": 1e-3})):
        reply = await team.train(model["id"], call, body)
        assert (reply.status_code, reply.json()["code"]) == (409, "model_in_run"), reply.text
        assert run["id"] in reply.json()["detail"]
    second = await start(team, run_request(model))
    assert (second.status_code, run["id"] in second.json()["detail"]) == (409, True)
    await cancelled(team, run)
