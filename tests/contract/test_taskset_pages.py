"""Pages of tasksets as HTTP: what they show of anybody's uploads, to whom, and how much they cost."""

from __future__ import annotations

import html
import re
import uuid
from typing import Any

from server.auth.issuing import Grant
from store.tables import JobRow, ModelRow
from tests.contract.test_pages import counted_queries, key_of, signed_in, team_id, visitor
from tests.contract.test_rollout_pages import rows_of, words
from tests.contract.test_tasksets import ODD, task, upload
from tests.pages.rollouts import add_groups, add_job

__all__ = ["visitor"]


async def made(team: Any, *tasks: Any, name: str = "bugs") -> str:
    return (await upload(team, *tasks, name=name)).json()["taskset_id"]


async def test_the_printed_link_opens_the_tasks_with_their_arguments(team, visitor):
    assert "No tasksets yet" in await words(visitor, "/tasksets")
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    tasks = [task("a <b>", args={"n": 8, "text": "<i>"}), task("odd", args=ODD), task("deep", args={"x": deep})]
    tasks += [task("big", args={"text": "x" * 20_000}), task("none", args={})]
    page = f"/tasksets/{await made(team, *tasks)}"
    assert rows_of((await visitor.get("/tasksets")).text)[0].startswith("bugs 5 ")
    told = rows_of((await visitor.get(page)).text)
    assert told[0] == 'a <b> reply of suite {"n": 8, "text": "<i>"}'
    assert told[1].startswith("odd reply of suite")
    assert told[3].endswith("KiB: open it")
    assert told[4] == "none reply of suite none"
    for name in ("a <b>", "odd", "deep", "big"):
        opened = await visitor.get(page, params={"task": name})
        assert opened.status_code == 200
        assert '"scenario": "reply"' in html.unescape(opened.text) or name == "deep"
    assert "more characters" in (await visitor.get(page, params={"task": "big"})).text
    for path in (f"{page}?task=missing", f"{page}?task=%00", "/tasksets/x", f"/tasksets/{uuid.uuid4()}"):
        assert (await visitor.get(path)).status_code == 404, path
    assert (await visitor.get(f"{page}?after=-1")).status_code == 422
    assert (await visitor.get("/tasksets?cursor=x")).status_code == 422


async def test_another_teams_taskset_is_not_there(team, other_team, origin):
    page = f"/tasksets/{await made(team, task())}"
    async with signed_in(origin, other_team.key) as browser:
        assert (await browser.get(page)).status_code == 404
        assert "bugs" not in (await browser.get("/tasksets")).text


async def test_what_a_task_taught_stands_beside_it_by_model(team, base, visitor, database, origin):
    page = f"/tasksets/{await made(team, *(task(f'task-{number}') for number in range(4)))}"
    assert "No model was trained on these tasks yet" in await words(visitor, page)
    models = [await team.fork(str(base.id)) for _ in range(3)]
    async with database.session() as session:
        owner = await team_id(database, team)
        first, second, third = [await session.get_one(ModelRow, uuid.UUID(model["id"])) for model in models]
        job = await add_job(session, owner, "train")
        await add_groups(session, job, [[0.0, 1.0], [1.0, 1.0]], first)
        await add_groups(session, job, [[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]], second)
        probed: JobRow = await add_job(session, owner, "eval of it", is_evaluation=True)
        await add_groups(session, probed, [[0.5, 0.5]], third)
    told = rows_of((await visitor.get(f"{page}?model={first.id}")).text)
    assert re.search(r"task-0 .* unknown 0.5000 .*100 % 2$", told[0]), told[0]
    assert told[3].endswith("not trained on")
    assert "0 % 2" in rows_of((await visitor.get(f"{page}?model={second.id}")).text)[0]
    listed = re.findall(r'<option value="([^"]+)"', (await visitor.get(page)).text)
    assert set(listed) == {str(first.id), str(second.id)}, "evaluations train nobody"
    narrow = await key_of(database, team, Grant("narrow", "viewer", model_ids=frozenset({first.id})))
    async with signed_in(origin, narrow) as browser:
        seen = (await browser.get(f"{page}?model={second.id}")).text
        assert second.slug not in seen


async def test_many_tasks_cost_few_queries_and_bytes(team, model, visitor, database):
    tasks = [task(f"task-{number}", args={"text": "x" * 700, "n": number}) for number in range(600)]
    for start in range(0, 600, 100):
        taskset_id = await made(team, *tasks[start : start + 100])
    page = f"/tasksets/{taskset_id}"
    async with database.session() as session:
        job = await add_job(session, await team_id(database, team), "train")
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        await add_groups(session, job, [[0.0, 1.0]] * 300, row)
    seen = list[str]()
    for path, most_queries, most_bytes in [
        ("/tasksets", 2, 8_000),
        (page, 7, 70_000),
        (f"{page}?after=400", 7, 70_000),
    ]:
        marker = uuid.uuid4().hex
        with counted_queries(marker) as queries:
            reply = await visitor.get(path, headers={"X-Request-Id": marker})
        assert 2 <= len(queries) <= most_queries, "\n".join(queries)
        assert len(reply.content) <= most_bytes
    link = page
    while link and len(seen) < 200:
        reply = await visitor.get(link)
        seen += [row.split()[0] for row in rows_of(reply.text)]
        more = re.search(r'href="([^"]*)">More', reply.text)
        link = html.unescape(more[1]) if more else ""
    assert seen == [f"task-{number}" for number in range(200)]
