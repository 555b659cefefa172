"""Alarms, held-out scores and what tasks teach, on a model's page."""

from __future__ import annotations

import re
import uuid

import pytest

from server.auth.issuing import Grant
from store.tables import AlarmRow, ModelRow
from tests.contract.test_pages import csrf_token, key_of, signed_in, team_id, visitor
from tests.pages.rollouts import add_groups, add_job
from tests.pages.scenes import grow

__all__ = ["visitor"]


@pytest.fixture
async def alarm(model, database) -> uuid.UUID:
    async with database.session() as session:
        row = AlarmRow(
            model_id=uuid.UUID(model["id"]),
            rule="reward_up_score_down",
            subject_id=uuid.uuid4(),
            step=3,
            message="The reward rose while <held-out> fell.",
            evidence={},
            actions=["pause"],
            state="done",
            outcome={"pause": "training is paused"},
        )
        session.add(row)
    return row.id


async def test_an_alarm_stands_on_the_page_until_it_is_acknowledged(team, model, visitor, alarm, origin, database):
    page = (await visitor.get(f"/models/{model['id']}")).text
    assert "The reward rose while &lt;held-out&gt; fell." in page
    assert "training is paused" in page
    path = f"/forms/models/{model['id']}/alarms/{alarm}/acknowledge"
    assert (await visitor.post(path, data={})).status_code == 403
    async with signed_in(origin, await key_of(database, team, Grant("viewer", "viewer"))) as viewer:
        seen = (await viewer.get(f"/models/{model['id']}")).text
        assert "The reward rose" in seen
        assert "/acknowledge" not in seen
        assert (await viewer.post(path, data={"csrf_token": csrf_token(seen)})).status_code == 403
    assert (await visitor.post(path, data={"csrf_token": csrf_token(page)})).status_code == 303
    assert "The reward rose" not in (await visitor.get(f"/models/{model['id']}")).text
    (one,) = (await team.http.get(f"/v2/models/{model['id']}/alarms")).json()["items"]
    assert one["acknowledged_at"] is not None


async def test_another_teams_alarm_is_out_of_reach(model, alarm, other_team, origin, team):
    async with signed_in(origin, other_team.key) as browser:
        token = csrf_token((await browser.get("/")).text)
        for verb in ("acknowledge", "undo"):
            path = f"/forms/models/{model['id']}/alarms/{alarm}/{verb}"
            assert (await browser.post(path, data={"csrf_token": token})).status_code == 404
    (one,) = (await team.http.get(f"/v2/models/{model['id']}/alarms")).json()["items"]
    assert one["acknowledged_at"] is None


async def test_held_out_scores_stand_beside_the_reward_also_when_they_come_late(team, model, visitor, database):
    async with database.session() as session:
        nodes = await grow(session, await session.get_one(ModelRow, uuid.UUID(model["id"])), 3)
    path = f"/v2/models/{model['id']}/evals"
    for checkpoint, score in [("base", 0.25), (nodes[2].name, 0.75), (nodes[0].name, 0.5)]:
        body = {"benchmark": "Sheet <50>", "score": score, "checkpoint": checkpoint}
        assert (await team.http.post(path, json=body)).status_code < 300
    page = (await visitor.get(f"/models/{model['id']}")).text
    assert "Held-out: Sheet &lt;50&gt;" in page
    assert "The base weights scored 0.2500." in page
    key = re.search(r'data-chart="(held-\w+)"', page)
    assert key
    told = (await visitor.get(f"/live/models/{model['id']}/series?after=3")).json()
    assert (told["names"], told["scores"]) == ([], {key[1]: [[nodes[2].name, 0.75], [nodes[0].name, 0.5]]})


async def test_tasks_say_which_of_them_teach(team, model, visitor, database):
    path = f"/models/{model['id']}?tab=tasks"
    assert "No rollout of this model" in (await visitor.get(path)).text
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        job = await add_job(session, await team_id(database, team), "train")
        traces = await add_groups(session, job, [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]], row)
        for index, trace in enumerate(traces):
            trace.task_slug = "teaching" if index < 4 else "<easy>"
    page = (await visitor.get(path)).text
    assert page.index("&lt;easy&gt;") < page.index("make harder") < page.index("teaching") < page.index(">keep<")
    assert (await visitor.get(f"{path}&cursor=%00")).status_code == 422
