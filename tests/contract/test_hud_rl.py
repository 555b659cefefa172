"""What `hud rl` of hud-python 0.5 asks for; tests/e2e/test_hud_rl.py drives that very client."""

from __future__ import annotations

import uuid

from sqlalchemy import update

from store.tables import RunRow
from tests.contract.runs_scene import deploy

TASK = {"env": {"name": "sums"}, "scenario": "sums:sum", "args": {"a": 1}, "slug": "one", "id": None, "columns": {}}


def job(model, *tasks, effort="medium"):
    parameters = {"reasoning_effort": effort}
    return {"model_id": model, "dataset": {"tasks": list(tasks) or [TASK]}, "config": {"parameters": parameters}}


async def test_tasks_become_a_run_with_defaults_and_its_state_is_read_by_both_ids(team, model, database):
    await deploy(database, team.name)
    made = await team.http.post("/training/jobs", json=job(model["model_name"], effort="low"))
    assert made.status_code == 200, made.text
    assert made.json()["model"]["id"] == model["id"]
    run = (await team.http.get(f"/v2/runs/{made.json()['job_id']}")).json()
    assert (run["config"]["steps"], run["config"]["max_tokens"], run["num_tasks"]) == (50, 256, 1)
    for reference in (made.json()["job_id"], model["id"], model["model_name"]):
        status = (await team.http.get(f"/v1/training/jobs/{reference}/raw-status")).json()
        assert status["job_id"] == made.json()["job_id"]
        assert status["status"] in ("queued", "running")
        assert (status["fine_tuned_model"], status["step"], status["steps"]) == (None, 0, 50)
    async with database.session() as session:
        ended = update(RunRow).where(RunRow.id == uuid.UUID(made.json()["job_id"]))
        await session.execute(ended.values(state="stopped", step=9, reward=0.5))
    status = (await team.http.get(f"/training/jobs/{model['id']}/raw-status")).json()
    assert (status["status"], status["fine_tuned_model"]) == ("succeeded", model["model_name"])
    assert (status["step"], status["reward"]) == (9, 0.5)


async def test_the_run_has_the_name_of_the_taskset_whose_tasks_were_sent(team, model, database):
    await deploy(database, team.name)
    rows = [{"name": f"sum-{a}", "env": {"name": "sums"}, "task_id": "sum", "args": {"a": a}} for a in range(3)]
    (await team.http.post("/v2/tasks/upload", json={"taskset_name": "other", "tasks": rows[:2]})).raise_for_status()
    (await team.http.post("/v2/tasks/upload", json={"taskset_name": "my sums", "tasks": rows})).raise_for_status()
    sent = list((await team.http.get("/tasks/evalset/my sums")).json()["tasks"].values())
    for tasks, name in ((sent, "my sums"), (sent[1:], "hud rl")):
        made = (await team.http.post("/training/jobs", json=job(model["id"], *tasks))).json()
        run = (await team.http.get(f"/v2/runs/{made['job_id']}")).json()
        assert (run["taskset"], run["num_tasks"]) == (name, len(tasks))
        (await team.http.post(f"/v2/runs/{run['id']}/cancel")).raise_for_status()
        async with database.session() as session:
            await session.execute(update(RunRow).where(RunRow.id == uuid.UUID(run["id"])).values(state="cancelled"))


async def test_the_same_request_again_is_the_same_job_and_another_is_refused_naming_it(team, model, database):
    await deploy(database, team.name)
    first = (await team.http.post("/training/jobs", json=job(model["id"]))).json()
    assert (await team.http.post("/v1/training/jobs", json=job(model["id"]))).json()["job_id"] == first["job_id"]
    other = await team.http.post("/training/jobs", json=job(model["id"], {**TASK, "slug": "two"}))
    assert other.status_code == 409
    assert first["job_id"] in other.json()["detail"]


async def test_what_is_not_trained_on_is_refused_in_one_sentence(team, model, base, database):
    await deploy(database, team.name)
    url = "/training/jobs"
    refused = [
        (job(str(base.id)), 403, "fork"),
        (job("nothing"), 404, "there is no model 'nothing'"),
        (job(model["id"], {"prompt": "x", "mcp_config": {}}), 422, "tasks of MCP environments are not offered"),
        (job(model["id"], {**TASK, "env": {"name": "sums", "include": ["a"]}}), 422, "include"),
        (job(model["id"], {**TASK, "env": {"name": "nowhere"}}), 404, "no environment 'nowhere'"),
        (job(model["id"], {**TASK, "scenario": "other"}), 422, "has no task 'other'"),
        (job(model["id"], {**TASK, "args": {"a": "x"}}), 422, "does not take these args"),
        (job(model["id"], 5), 422, "dataset.tasks[0]"),
        (job(model["id"], effort="extreme"), 422, "reasoning_effort"),
        ({**job(model["id"]), "steps": 5}, 422, "unknown field steps"),
    ]
    for body, status, sentence in refused:
        reply = await team.http.post(url, json=body)
        assert (reply.status_code, sentence in reply.json()["detail"]) == (status, True), reply.text
    assert (await team.http.get(f"{url}/{model['id']}/raw-status")).status_code == 404
    for path in ("/tasks/upload", "/v1/rollouts/run_list"):
        reply = await team.http.post(path, json={})
        assert (reply.status_code, "hud 0.6.21" in reply.json()["detail"]) == (422, True)


async def test_tasksets_and_environments_are_read(team, other_team, database):
    await deploy(database, team.name, "My_Env".lower().replace("_", "-"))
    tasks = [{"name": "one", "env": {"name": "my-env"}, "task_id": "sum", "args": {"a": 1}}]
    taskset = await team.http.post("/v2/tasks/upload", json={"taskset_name": "a b", "tasks": tasks})
    found = (await team.http.get("/tasks/evalset/a b?all=true")).json()
    assert found["evalset_id"] == taskset.json()["taskset_id"]
    assert found["tasks"]["one"]["env"] == {"name": "my-env"}
    assert (found["tasks"]["one"]["scenario"], found["tasks"]["one"]["args"]) == ("my-env:sum", {"a": 1})
    assert (await team.http.get(f"/tasks/evalsets/{found['evalset_id']}/tasks-by-id")).json() == found
    config = (await team.http.get("/environments/My_Env/mcp-config")).json()
    assert {"sum", "my-env:sum", "My_Env:sum"} <= set(config["scenarios"])
    for path in (
        "/tasks/evalset/a b",
        f"/tasks/evalsets/{found['evalset_id']}/tasks-by-id",
        "/environments/my-env/mcp-config",
    ):
        assert (await other_team.http.get(path)).status_code == 404
