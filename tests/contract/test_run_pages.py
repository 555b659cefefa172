"""Runs in the browser: the list, the page of one while it rolls out, and the questions before it is changed."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest

from store.tables import ModelRow, RunRow
from tests.contract.runs_scene import deploy, run_request, taskset
from tests.contract.stand_in_runner import new_runner, runners_of
from tests.contract.test_pages import csrf_token, signed_in
from tests.pages.runs import add_run


@pytest.fixture
async def visitor(origin, team):
    async with signed_in(origin, team.key) as browser:
        yield browser


async def test_a_run_is_followed_and_changed_in_the_browser(team, model, database, origin, visitor):
    await deploy(database, team.name)
    assert "No runs yet" in (await visitor.get("/runs")).text
    held_out = {"taskset": taskset(2, name="held <b>out</b>"), "every": 1}
    run = (await team.http.post("/v2/runs", json=run_request(model, name="first & last", held_out=held_out))).json()
    async with asyncio.timeout(120), runners_of(origin, database) as http:
        runner = await new_runner(http, "any", team=team.name)
        placed = await runner.lease(slots=1, wait_s=10)
        assert placed[0]["rollout"]["slug"] in ("sum-0", "sum-1")
        page = (await visitor.get(f"/runs/{run['id']}")).text
    assert "first &amp; last" in (await visitor.get("/runs")).text
    assert "Evaluation after step 0: rolling out" in page
    assert "It waits for 2 of its 2 rollouts." in page
    assert re.search(r'busy">running</span>\s*</td>\s*<td class="muted">here:1', page)
    assert "a runner" in page
    assert "held &lt;b&gt;out&lt;/b&gt;" in page
    assert "<b>out" not in page
    question = await visitor.get(f"/runs/{run['id']}/cancel")
    assert "Rollouts that are under way are cancelled" in question.text
    sent = {"csrf_token": csrf_token(question.text)}
    reply = await visitor.post(f"/forms/runs/{run['id']}/cancel", data=sent)
    assert (reply.status_code, reply.headers["location"]) == (303, f"/runs/{run['id']}")
    refused = await visitor.post(f"/forms/runs/{run['id']}/pause", data=sent)
    assert (refused.status_code, "cannot be paused" in refused.text) == (409, True)
    assert (await visitor.post(f"/forms/runs/{run['id']}/cancel", data={})).status_code == 403


async def test_runs_of_others_are_not_found(team, other_team, model, database, origin):
    await deploy(database, team.name)
    run = (await team.http.post("/v2/runs", json=run_request(model))).json()
    async with signed_in(origin, other_team.key) as stranger:
        for path in (f"/runs/{run['id']}", f"/runs/{uuid.uuid4()}", "/runs/x", f"/runs/{run['id']}/cancel"):
            assert (await stranger.get(path)).status_code == 404, path
        assert run["id"] not in (await stranger.get("/runs")).text
    await team.http.post(f"/v2/runs/{run['id']}/cancel")


@pytest.fixture
async def three(team, model, database):
    """Runs of one model: one failed with a long cause, the second has the highest reward."""
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        runs = [await add_run(session, row, steps=2 + n, state="completed") for n in range(3)]
        runs[0].name, runs[1].name, runs[2].name = "alpha", "beta", None
        runs[0].state, runs[0].error = "failed", "the environment went away " * 20
        runs[1].reward, runs[2].reward = 0.95, None
    yield [str(run.id) for run in runs]
    async with database.session() as session:
        for run in runs:
            await session.delete(await session.get_one(RunRow, run.id))


def listed(page: str) -> list[str]:
    return [run for run in re.findall(r'class="strong" href="/runs/([0-9a-f-]+)"', page) if run]


async def test_runs_are_filtered_sorted_and_tagged(team, three, visitor):
    first, second, third = three
    page = (await visitor.get("/runs", params={"sort": "-reward"})).text
    assert listed(page) == [second, first, third], "those without a reward come last"
    assert listed((await visitor.get("/runs", params={"sort": "reward"})).text) == [first, second, third]
    assert ("the environment went away " * 20).strip() in page, "the cause is whole"
    assert listed((await visitor.get("/runs", params={"text": "went away"})).text) == [first]
    assert listed((await visitor.get("/runs", params={"state": "failed"})).text) == [first]
    assert listed((await visitor.get("/runs", params={"text": "%"})).text) == []
    form = (await visitor.get(f"/runs/{second}/describe")).text
    sent = {"csrf_token": csrf_token(form), "name": "gamma", "tags": "nightly\n <b>x</b> \nnightly\n\n"}
    assert (await visitor.post(f"/forms/runs/{second}/describe", data=sent)).status_code == 303
    run = (await team.http.get(f"/v2/runs/{second}")).json()
    assert (run["name"], run["tags"]) == ("gamma", ["nightly", "<b>x</b>"])
    page = (await visitor.get("/runs", params={"tag": "nightly"})).text
    assert listed(page) == [second]
    assert "<b>x" not in page
    assert [one["id"] for one in (await team.http.get("/v2/runs?tag=nightly")).json()["items"]] == [second]
    refused = await visitor.post(f"/forms/runs/{second}/describe", data={**sent, "tags": "x" * 51})
    assert (refused.status_code, "x" * 51 in refused.text) == (422, True)
    for query in ("sort=colour", "state=odd", "text=%00", "page=0"):
        assert (await visitor.get(f"/runs?{query}")).status_code == 422, query


async def test_tags_are_set_whole_by_the_api_and_left_alone_where_they_are_not_named(team, three, other_team):
    path = f"/v2/runs/{three[0]}"
    assert (await team.http.patch(path, json={"tags": ["a", "b", "a"]})).json()["tags"] == ["a", "b"]
    run = (await team.http.patch(path, json={"name": "named"})).json()
    assert (run["name"], run["tags"]) == ("named", ["a", "b"])
    for bad in ({"tags": [""]}, {"tags": ["a\nb"]}, {"tags": ["t"] * 21}, {"state": "running"}, {"tags": "a"}):
        assert (await team.http.patch(path, json=bad)).status_code == 422, bad
    assert (await other_team.http.patch(path, json={"tags": []})).status_code == 404
    assert (await team.http.get(path)).json()["tags"] == ["a", "b"]


async def test_the_page_of_a_run_draws_its_curve_and_lists_its_steps(team, model, database, visitor):
    async with database.session() as session:
        run = await add_run(session, await session.get_one(ModelRow, uuid.UUID(model["id"])))
    page = (await visitor.get(f"/runs/{run.id}")).text
    lines = re.findall(r'<polyline points="([^"]*)"', page)
    assert [len(line.split()) for line in lines] == [20, 4]
    assert "Step 21: rolling out" in page
    assert page.count('">waiting</span>') == 13
    assert "1 rollout failed for good" in page
    assert "tasks per step" in page
    async with database.session() as session:
        await session.delete(await session.get_one(RunRow, run.id))
