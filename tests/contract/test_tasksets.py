"""Tasksets through the API: by content, by team, within bounds. The SDK's own calls are in `tests.e2e`."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

NAN = float("nan")


def task(name: str = "one", **changes: Any) -> dict[str, Any]:
    return {"name": name, "env": {"name": "suite"}, "task_id": "reply", "args": {"n": 8}, **changes}


async def upload(team: Any, *tasks: Any, name: str | None = "bugs", **more: Any) -> Any:
    body = {"taskset_name": name, "tasks": list(tasks), **more}
    return await team.http.post("/v2/tasks/upload", content=json.dumps(body))


async def exported(team: Any, taskset_id: str) -> list[dict[str, Any]]:
    reply = await team.http.get(f"/v2/tasksets/{taskset_id}/export")
    assert reply.status_code == 200, reply.text
    return json.loads(reply.text)["tasks"]


ODD = {
    "floats": [1.0, 1e22, 0.1, -0.0, 5e-324],
    "integers": [2**70, -1],
    "order": {"z": 1, "a": 2},
    "text": "\u0000 \ud800 \u2028 é",
    "nested": [[{}], []],
}


async def test_a_task_comes_back_with_the_very_content_that_was_sent(team):
    verifier = {"env": "suite", "id": "judge", "args": {}, "slug": "judge"}
    sent = task(args=ODD, columns={"level": 1.0}, verifier=verifier, novel=[1], validation=None)
    done = (await upload(team, sent)).json()
    (kept,) = await exported(team, done["taskset_id"])
    assert json.dumps(kept["args"]) == json.dumps(ODD), "order of keys and forms of numbers too"
    assert kept == {
        "name": "one",
        "env": "suite",
        "scenario": "reply",
        "args": ODD,
        "columns": {"level": 1.0},
        "verifier": verifier,
        "novel": [1],
    }


async def test_an_upload_adds_replaces_and_leaves_the_rest_in_order(team):
    first = (await upload(team, task("b"), task("a"))).json()
    assert (first["tasks_created"], first["tasks_updated"], first["tasks_unchanged"]) == (2, 0, 0)
    again = (await upload(team, task("a", args={}), task("b"), task("c"))).json()
    assert again["taskset_id"] == first["taskset_id"]
    assert (again["tasks_created"], again["tasks_updated"], again["tasks_unchanged"]) == (1, 1, 1)
    by_id = (await upload(team, task("c"), name=None, taskset_id=first["taskset_id"])).json()
    assert by_id["tasks_unchanged"] == 1
    assert [row["name"] for row in await exported(team, first["taskset_id"])] == ["b", "a", "c"]
    shown = (await team.http.get(f"/v2/tasksets/{first['taskset_id']}")).json()
    rows = await exported(team, first["taskset_id"])
    assert shown["num_tasks"] == 3
    assert shown["num_bytes"] == sum(len(json.dumps(row, separators=(",", ":"))) for row in rows)


async def test_racing_uploads_make_one_taskset_with_all_tasks(team):
    replies = await asyncio.gather(*(upload(team, task(f"t{i}"), name="race") for i in range(6)))
    assert {reply.status_code for reply in replies} == {200}
    (taskset_id,) = {reply.json()["taskset_id"] for reply in replies}
    assert {row["name"] for row in await exported(team, taskset_id)} == {f"t{i}" for i in range(6)}


@pytest.mark.parametrize("name", ["bugs", "my bugs/v2?", "..%2f", "Fehler #ä"])
async def test_a_name_means_the_team_s_own_taskset(name, team, other_team):
    from urllib.parse import quote

    path = f"/v2/tasksets/by-name/{quote(name, safe='')}"
    assert (await team.http.get(path)).status_code == 404
    mine = (await upload(team, task(), name=name)).json()["taskset_id"]
    assert (await team.http.get(path)).json() == {"taskset_id": mine, "name": name}
    assert (await other_team.http.get(path)).status_code == 404
    assert (await other_team.http.get(f"/v2/tasksets/{mine}/export")).status_code == 404
    assert (await upload(other_team, task(), taskset_id=mine)).status_code == 404
    assert (await upload(other_team, task(), name=name)).json()["taskset_id"] != mine


REFUSED = {
    "a name twice": ([task(), task()], {}, "tasks[1].name: 'one' is there twice"),
    "no name": ([{**task(), "name": ""}], {}, "tasks[0].name: "),
    "a name that PostgreSQL cannot hold": ([task("\u0000")], {}, "tasks[0].name holds a character"),
    "no environment": ([{"name": "a", "task_id": "t"}], {}, "tasks[0].env is missing"),
    "arguments that are no object": ([task(args=[1])], {}, "tasks[0].args: "),
    "NaN": ([task(args={"n": NAN})], {}, "holds NaN or an infinite number"),
    "tasks that are no list": (None, {"tasks": {}}, "tasks: "),
    "another project": ([task()], {"project_id": str(uuid.uuid4())}, "a team has one, 'default'"),
    "no taskset": ([task()], {"taskset_name": None}, "taskset_name is missing"),
    "a blank name": ([task()], {"taskset_name": "  "}, "choose another"),
    "a name that moves a path": ([task()], {"taskset_name": ".."}, "choose another"),
    "a name that reads as an id": ([task()], {"taskset_name": uuid.uuid4().hex}, "clients take it for one"),
    "a name that PostgreSQL cannot hold, of a taskset": ([task()], {"taskset_name": "a\u0000"}, "choose another"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_upload_is_refused_in_one_sentence_and_leaves_nothing(case, team):
    tasks, changes, sentence = REFUSED[case]
    body = {"taskset_name": "bad", "tasks": tasks, **changes}
    reply = await team.http.post("/v2/tasks/upload", content=json.dumps(body))
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]
    assert (await team.http.get("/v2/tasksets")).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"tasks": ' + b"[" * 30_000, b"\xff", b'{"tasks":[1]}'])
async def test_a_malformed_upload_is_refused(body, standing_team):
    reply = await standing_team.http.post("/v2/tasks/upload", content=body)
    assert reply.status_code == 422, reply.text
    assert isinstance(reply.json()["detail"], str)


async def test_sizes_are_bounded_and_what_is_too_large_leaves_nothing(team, monkeypatch):
    from server.tasksets import service, uploads

    monkeypatch.setattr(uploads, "MAX_TASK_BYTES", 1000)
    monkeypatch.setattr(service, "MAX_TASKSET_BYTES", 2000)
    large = await upload(team, task(args={"text": "x" * 1000}))
    assert (large.status_code, "keep large data with the environment" in large.text) == (413, True)
    kept = (await upload(team, *(task(f"t{i}", args={"text": "x" * 500}) for i in range(3)))).json()
    grown = await upload(team, task("t9", args={"text": "x" * 500}))
    assert (grown.status_code, "put the rest into another one" in grown.text) == (413, True)
    assert len(await exported(team, kept["taskset_id"])) == 3
    assert (await team.http.post("/v2/tasks/upload", content=b" " * 110_000)).status_code == 413


async def test_tasksets_are_made_listed_by_page_and_deleted(team, other_team):
    made = [(await team.http.post("/v2/tasksets", json={"name": f"s{i}"})).json()["id"] for i in range(5)]
    assert (await team.http.post("/v2/tasksets", json={"name": "s0"})).status_code == 409
    seen, cursor = list[str](), ""
    while cursor is not None:
        page = (await team.http.get(f"/v2/tasksets?limit=2{cursor}")).json()
        seen += [one["id"] for one in page["items"]]
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
    assert seen == made[::-1]
    assert (await team.http.get("/v2/tasksets?cursor=nonsense")).status_code == 422
    await upload(team, task("a/b"), task("c"), name="s4")
    gone = await team.http.delete(f"/v2/tasksets/{made[4]}/tasks/a%2Fb")
    assert gone.json() == {"taskset_id": made[4], "num_tasks": 1}
    assert (await team.http.delete(f"/v2/tasksets/{made[4]}/tasks/a%2Fb")).status_code == 404
    assert (await other_team.http.delete(f"/v2/tasksets/{made[4]}")).status_code == 404
    assert (await team.http.delete(f"/v2/tasksets/{made[4]}")).json() == {"tasks_deleted": 1}
    assert (await team.http.get(f"/v2/tasksets/{made[4]}")).status_code == 404


@pytest.mark.parametrize("spelling", [str, lambda value: uuid.UUID(value).hex])
async def test_a_job_shows_the_name_of_its_taskset(spelling, team):
    taskset_id = (await upload(team, task())).json()["taskset_id"]
    for said in (spelling(taskset_id), "no id", str(uuid.uuid4())):
        (await team.http.post(f"/v2/trace/job/{uuid.uuid4()}/enter", json={"taskset_id": said})).raise_for_status()
    names = [job["taskset_name"] for job in (await team.http.get("/v2/jobs")).json()["items"]]
    assert names == [None, None, "bugs"]


async def test_a_team_is_one_project(team):
    me = (await team.http.get("/v2/auth/me")).json()
    page = (await team.http.get("/v2/projects?search=default&limit=500")).json()
    (project,) = page["items"]
    assert (page["total"], project["id"], project["capabilities"]) == (1, me["team_id"], {"create": True})
    assert (await team.http.get(f"/v2/projects/{project['id']}")).json() == project
    assert (await team.http.get("/v2/projects?search=other")).json() == {"items": [], "total": 0}
    assert (await upload(team, task(), project_id=project["id"])).status_code == 200
