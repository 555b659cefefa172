"""Rollouts read in a browser: found by what was said, one after the other, side by side, with notes, and as files."""

from __future__ import annotations

import asyncio
import html
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase
from store.tables import ModelRow, TraceRow
from store.tasksets import make_taskset, put_tasks
from tests.contract.conftest import Team, new_team
from tests.contract.test_pages import csrf_token, signed_in, team_id
from tests.contract.test_rollout_pages import rows_of, words
from tests.pages.rollouts import add_groups, add_job, tell, trace_row
from tests.pages.scenes import add_model, grow


@dataclass(frozen=True)
class Scene:
    """A job with a group of three rollouts, the first two told, and who looks at them."""

    team: Team
    browser: httpx.AsyncClient
    job: uuid.UUID
    rows: list[TraceRow]
    model: str


@pytest.fixture(scope="module")
async def scene(
    origin: str, base: ModelRow, database: AsyncDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    blobs = FileBlobStore(tmp_path_factory.mktemp("blobs"))
    async with new_team(origin, database) as team, signed_in(origin, team.key) as browser:
        async with database.session() as session:
            owner = await team_id(database, team)
            taskset = await make_taskset(session, owner, "read")
            assert taskset is not None
            await put_tasks(session, taskset, [("task-0", '{"env": "arith", "scenario": "add", "args": {"a": 12}}')])
            model = await add_model(session, owner, base.id, f"read-{uuid.uuid4().hex[:6]}")
            (checkpoint,) = await grow(session, model, 1)
            job = await add_job(session, owner, "j", group_size=3, taskset_id=str(taskset.id))
            rows = await add_groups(session, job, [[0.0, 0.5, 1.0]], model)
        await tell(database, blobs, rows[0], checkpoint=checkpoint)
        await tell(database, blobs, rows[1], checkpoint=checkpoint, num_turns=2, num_tokens=30)
        async with database.session() as session:  # as if it had been a while ago
            await session.execute(
                update(TraceRow).where(TraceRow.job_id == job.id).values(last_activity_at=job.created_at)
            )
        yield Scene(team, browser, job.id, rows, model.slug)


def links(page: str, name: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(rf'href="([^"]*)">{name}</a>', page)]


async def test_rollouts_are_found_by_what_was_said(scene: Scene):
    path = "/traces?text=boards+-refund"
    assert "No rollout is like that" in await words(scene.browser, path)
    async with asyncio.timeout(120):  # behind the rollouts of other tests, and a server rests more than it reads
        while len(rows_of((page := await scene.browser.get("/traces?text=add+%22error+42%22")).text)) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert "<mark>add</mark>" in page.text
    assert len(re.findall('class="hit"', page.text)) == 2
    for query, found in [
        (f"model={scene.model}", 3), (f"job={scene.job.hex}", 3), ("label=odd", 0), ("commented=no", 3),
        ("commented=yes", 0), ("since=2020-01-01&until=2020-01-02", 0), ("since=2020-01-01&until=9999-12-31", 3),
    ]:  # fmt: skip
        reply = await scene.browser.get(f"/traces?{query}")
        assert (reply.status_code, len(rows_of(reply.text))) == (200, found), query
    for query in ("text=...", "since=tomorrow", "job=x", "model=nobody", "checkpoint=nothing", "commented=perhaps"):
        assert (await scene.browser.get(f"/traces?{query}")).status_code == 422, query


async def test_a_page_leads_to_the_rollouts_before_and_behind_it(scene: Scene):
    ids = sorted((row.id for row in scene.rows), key=lambda one: one.int)
    seen, link = list[str](), f"/trace/{ids[0]}"
    while link:
        page = (await scene.browser.get(link)).text
        seen.append(link)
        link = next(iter(links(page, "Next")), "")
    assert seen == [f"/trace/{one}" for one in ids], "in the group, which began at once"
    assert "Group 3 of 3" in await words(scene.browser, seen[-1])
    listed = (await scene.browser.get("/traces?min_reward=0.5&status=completed")).text
    first = next(html.unescape(one) for one in re.findall(r'href="(/trace/[^"]*)"', listed))
    assert "min_reward=0.5" in first
    page = (await scene.browser.get(first)).text
    assert "In the list" in page
    assert links(page, "Back to the list") == ["/traces?status=completed&min_reward=0.5"]
    (other,) = [one for one in links(page, "Next") if "min_reward" in one and one.split("?")[0] != first.split("?")[0]][
        :1
    ]
    assert "min_reward=0.5" in other


async def test_the_task_s_arguments_stand_beside_its_slug(scene: Scene):
    said = await words(scene.browser, f"/trace/{scene.rows[0].id}")
    assert 'Task arguments of add in arith { "a": 12 }' in said


async def test_two_rollouts_stand_side_by_side(scene: Scene):
    one, other = scene.rows[0].id, scene.rows[1].id
    page = await scene.browser.get(f"/traces/compare?a={one}&b={other.hex}")
    said = await words(scene.browser, f"/traces/compare?a={one}&b={other.hex}")
    assert "They differ first in step" in said
    assert "Both: User, the same" in said or "Both: System" in said
    assert "<mark>" in page.text
    assert "Nothing here." in said, "one has a turn more"
    assert "the same, word for word" in await words(scene.browser, f"/traces/compare?a={one}&b={one}")
    assert "Give the ids" in await words(scene.browser, "/traces/compare")
    for query, status in ((f"a={one}&b={uuid.uuid4()}", 404), ("a=x&b=y", 422), (f"a={one}&b={other}&from=99", 200)):
        assert (await scene.browser.get(f"/traces/compare?{query}")).status_code == status


async def test_an_opened_turn_shows_the_prompt_as_the_model_saw_it(scene: Scene, database: AsyncDatabase):
    path = f"/trace/{scene.rows[0].id}?open=2"
    assert "Prompt as the model saw it: 40 tokens" in await words(scene.browser, path)
    page = (await scene.browser.get(path)).text
    prompt = page.partition('id="p-2"')[2].partition("</details>")[0]
    shown = re.findall(r'title="(\d+): (\d+)">([^<]*)</span>', prompt)
    assert shown == [(str(at), str(99 + at), chr(99 + at)) for at in range(1, 41)], "texts by the sampler of the base"
    later = (await scene.browser.get(f"{path}&prompt=30")).text
    assert len(re.findall(r'title="\d+: \d+">', later.partition('id="p-2"')[2].partition("</details>")[0])) == 10
    async with database.session() as session:
        base = ModelRow(slug=f"silent-{uuid.uuid4().hex[:6]}", name="silent", weights="/nowhere")
        session.add(base)
        await session.flush()
        trace = trace_row(scene.rows[0].team_id, model_id=base.id)
        session.add(trace)
    await tell(database, FileBlobStore(Path("/nonexistent")), trace, num_turns=1)
    page = (await scene.browser.get(f"/trace/{trace.id}?open=2")).text
    assert "No sampler of this base serves" in page
    assert ">#100</span>" in page, "ids stand for texts"


async def test_a_rollout_and_its_turns_are_files(scene: Scene, other_team: Team, origin: str):
    path = f"/trace/{scene.rows[0].id}/json"
    whole, turn = await scene.browser.get(path), await scene.browser.get(f"{path}?turn=2")
    assert whole.headers["content-disposition"] == f'attachment; filename="rollout-{scene.rows[0].id.hex[:8]}.json"'
    assert whole.json() == (await scene.team.http.get(f"/v2/traces/{scene.rows[0].id}")).json()
    assert turn.json() == whole.json()["turns"][1]
    assert (await scene.browser.get(f"{path}?turn=9")).status_code == 404
    async with signed_in(origin, other_team.key) as stranger:
        assert (await stranger.get(path)).status_code == 404
        assert (await stranger.get(f"/traces/compare?a={scene.rows[0].id}&b={scene.rows[1].id}")).status_code == 404


async def test_labels_and_comments_are_written_on_the_page(scene: Scene):
    path, form = f"/trace/{scene.rows[2].id}", f"/forms/traces/{scene.rows[2].id}"

    async def post(what: str, **fields: Any) -> httpx.Response:
        token = csrf_token((await scene.browser.get(path)).text)
        return await scene.browser.post(f"{form}/{what}", data={**fields, "csrf_token": token})

    assert (await post("labels", add="to discuss, <b>")).status_code == 303
    assert (await post("labels", remove="to discuss")).headers["location"] == f"{path}#notes"
    assert (await post("comments", text="Look <here>")).status_code == 303
    said = await words(scene.browser, path)
    assert "Look <here>" in said
    assert "to discuss" not in said
    listed = rows_of((await scene.browser.get("/traces?label=%3Cb%3E&commented=yes")).text)
    assert len(listed) == 1
    assert "task-0 <b> 1 comment" in listed[0]
    comment = re.search(r"/comments/([0-9a-f-]{36})/delete", (await scene.browser.get(path)).text)
    assert comment
    assert (await post(f"comments/{comment[1]}/delete")).status_code == 303
    assert (await post(f"comments/{comment[1]}/delete")).status_code == 404
    assert (await post("comments", text=" ")).status_code == 422
    assert (await post("labels", add="x" * 41)).status_code == 422
