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
