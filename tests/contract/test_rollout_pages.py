"""Pages of jobs and rollouts as HTTP: what they show of anybody's uploads, to whom, and how much they cost."""

from __future__ import annotations

import html
import json
import math
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import structlog
from sqlalchemy import text

from server.auth.issuing import Grant
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase
from store.tables import CheckpointRow, ModelRow
from tests.contract.conftest import Team, new_team
from tests.contract.test_pages import HTML, counted_queries, key_of, signed_in, team_id
from tests.pages.rollouts import GAPS, HUGE, add_groups, add_job, pass_over, tell, trace_row, turns
from tests.pages.scenes import add_model, grow

REWARDS: list[list[float | None]] = [[0.0, 0.5, 1.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [None, 1.0]]


@dataclass(frozen=True)
class Scene:
    """Two jobs of a team, and rollouts: told by telemetry, by the gateway alone, a long one, one that failed."""

    team: Team
    job: uuid.UUID
    other_job: uuid.UUID
    told: uuid.UUID
    untold: uuid.UUID
    long: uuid.UUID
    failed: uuid.UUID
    checkpoint: CheckpointRow


@pytest.fixture(scope="module")
async def scene(origin: str, base: ModelRow, database: AsyncDatabase, tmp_path_factory: pytest.TempPathFactory) -> Any:
    blobs = FileBlobStore(tmp_path_factory.mktemp("blobs"))  # all of it is small enough for the rows
    async with new_team(origin, database) as team:
        async with database.session() as session:
            owner = await team_id(database, team)
            model = await add_model(session, owner, base.id, f"rolled-{uuid.uuid4().hex[:6]}")
            (checkpoint,) = await grow(session, model, 1)
            job = await add_job(session, owner, "Nightly", group_size=3, taskset_id="arith")
            rows = await add_groups(session, job, REWARDS, model)
            other = await add_job(session, owner, "eval <b>", taskset_id="held-out")
            done = await add_groups(session, other, [[0.25]])
            failed = trace_row(owner, status="error", reward=0.0, error="<b>boom</b>", flags=["prompt_chunks"])
            session.add(failed)
        await tell(database, blobs, rows[0], checkpoint=checkpoint)
        await tell(database, blobs, rows[1], checkpoint=checkpoint, is_reported=False)
        await tell(database, blobs, done[0], num_turns=100, num_tokens=200)
        yield Scene(team, job.id, other.id, rows[0].id, rows[1].id, done[0].id, failed.id, checkpoint)


@pytest.fixture
async def visitor(scene: Scene, origin: str) -> Any:
    async with signed_in(origin, scene.team.key) as browser:
        yield browser


async def words(visitor: httpx.AsyncClient, path: str) -> str:
    """What a page says, without its tags."""
    reply = await visitor.get(path)
    assert reply.status_code == 200, reply.text
    main = reply.text.partition("<main")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())


def rows_of(page: str) -> list[str]:
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", row)).split()) for row in body.split("</tr>")[:-1]]


async def test_jobs_say_how_many_of_their_groups_teach(scene, visitor):
    listed = rows_of((await visitor.get("/jobs")).text)
    assert len(listed) == 2
    assert listed[0].startswith("eval <b> completed 1 0 0.2500 1 0")
    assert listed[1].startswith("Nightly running 11 0 0.5500 4 1 arith")
    for found, query in [
        (1, "name=NIGHT"),
        (1, "taskset=held-out"),
        (1, "status=running"),
        (0, "name=x"),
        (2, "name="),
    ]:
        assert len(rows_of((await visitor.get(f"/jobs?{query}")).text)) == found, query


async def test_groups_are_judged_by_the_spread_of_their_rewards(scene, visitor):
    page = await visitor.get(f"/jobs/{scene.job.hex}")
    told = rows_of(page.text)
    verdicts = ["running", "all equal", "all fail", "all pass", "teaches"]
    assert [row.split()[0] for row in told] == [f"task-{number}" for number in (4, 3, 2, 1, 0)]
    for row, verdict in zip(told, verdicts, strict=True):
        assert f" {verdict} " in row
    assert "Rewards: 0, 0.5, 1 0.5000 0.4082 0 1 3 0" in told[4]
    assert "2 of 3" in told[3]
    for verdict in ("teaches", "all_pass", "all_fail", "all_equal", "running"):
        assert len(rows_of((await visitor.get(f"/jobs/{scene.job}?verdict={verdict}")).text)) == 1
    assert "No group of this job is like that" in await words(visitor, f"/jobs/{scene.job}?verdict=ungraded")


async def test_what_an_error_was_rewarded_counts_for_no_spread(team, origin, database):
    async with database.session() as session:
        job = await add_job(session, await team_id(database, team), "j")
        ended: list[tuple[str, float | None]] = [
            ("completed", 1.0), ("completed", 1e300), ("error", 0.0), ("cancelled", 0.5), ("completed", None),
        ]  # fmt: skip
        for status, reward in ended:
            row = trace_row(job.team_id, job_id=job.id, status=status)
            row.reward = reward
            session.add(row)
    async with signed_in(origin, team.key) as browser:
        (row,) = rows_of((await browser.get(f"/jobs/{job.id}")).text)
        assert row.startswith("no task teaches Rewards: 1, 1e+30")
        assert "5 2 none" in row


async def test_rollouts_are_filtered_and_paged(team, origin, database):
    async with database.session() as session:
        job = await add_job(session, await team_id(database, team), "j")
        await add_groups(session, job, [[number / 120] for number in range(120)])
    async with signed_in(origin, team.key) as browser:
        for path, more in ((f"/jobs/{job.id}", "tab=rollouts"), ("/traces", ""), (f"/jobs/{job.id}", "")):
            seen: list[str] = []
            link = f"{path}?{more}"
            while link:
                reply = await browser.get(link)
                found = rows_of(reply.text)
                assert 0 < len(found) <= 50
                seen += found
                older = re.search(r'href="([^"]*)">Older', reply.text)
                link = html.unescape(older[1]) if older else ""
            assert len(seen) == len(set(seen)) == 120, path
        page = await browser.get("/traces?min_reward=0.5&max_reward=0.55&status=completed")
        assert len(rows_of(page.text)) == 7
        assert len(rows_of((await browser.get(f"/jobs/{job.id}?tab=rollouts&task=task-7")).text)) == 1
        assert "No rollout is like that" in await words(browser, "/traces?status=error")


async def test_a_told_rollout_is_read_turn_by_turn(scene, visitor):
    for spelling in (str(scene.told), scene.told.hex, scene.told.hex.upper()):
        said = await words(visitor, f"/trace/{spelling}")
    order = [
        "12+30=?",
        "Turn 1: Agent",
        scene.checkpoint.name,
        "Carry the one.",
        "Calls add",
        "<b>carry</b>",
        "40 tokens",
    ]
    order += ["Tool add", "Turn 2: Agent", "Tool add", "Error 42?", "Evaluation", "half right"]
    at = 0
    for one in order:
        at = said.find(one, at)
        assert at >= 0, one
    assert "Told by the telemetry" in said
    assert "58500 more characters".replace("58500", "58,500") in said
    assert len(re.findall("x{1500}", said)) == 1
    assert len(HUGE) == 60_000


async def test_an_opened_turn_has_every_token_with_its_logprob(scene, visitor):
    detail = (await scene.team.http.get(f"/v2/traces/{scene.told}")).json()["turns"][0]
    page = (await visitor.get(f"/trace/{scene.told}?open=2")).text
    table = rows_of(page)
    assert len(table) == 40
    for place, (row, token_id, logprob) in enumerate(
        zip(table, detail["output_token_ids"], detail["output_logprobs"], strict=True), 1
    ):
        cells = row.replace("−", "-").split()
        assert (cells[0], cells[2]) == (str(place), str(token_id))
        assert float(cells[3]) == pytest.approx(logprob, rel=1e-2, abs=1e-4)
    assert "⏎" in table[-1]


@pytest.fixture(scope="module")
async def passed(scene: Scene, database: AsyncDatabase, base: ModelRow) -> Any:
    """A rollout of which a trainer went over the first of its two turns."""
    async with database.session() as session:
        owner = await team_id(database, scene.team)
        model = await add_model(session, owner, base.id, f"passed-{uuid.uuid4().hex[:6]}")
        (checkpoint,) = await grow(session, model, 1)
        trace = trace_row(owner, model_id=model.id)
        session.add(trace)
    await tell(database, FileBlobStore(Path("/nonexistent")), trace, num_turns=2, checkpoint=checkpoint)
    (turn, _), _ = turns(2, 40)
    async with database.session() as session:
        operation = await pass_over(session, trace, checkpoint, [turn])
    logprobs = turn.sampling_logprobs.copy()
    logprobs[: len(GAPS)] += np.array(GAPS, np.float32)
    return trace.id, operation.id, checkpoint, logprobs


async def test_the_trainers_logprobs_stand_beside_the_samplers(scene, passed, visitor):
    trace_id, _, checkpoint, logprobs = passed
    said = await words(visitor, f"/trace/{trace_id}")
    for one in (
        "Trainer to sampler 0.0798 in the mean, 2.00 at most",
        f"Trainer at {checkpoint.name} step 7,",
        "forward backward; 1 of 2 turns",
        "40 tokens, mean logprob",
        f"The trainer went over them at {checkpoint.name} , step 7: its logprobs differ by 0.0798 nats in the mean",
    ):
        assert one in said, f"{one!r} in {said}"
    table = rows_of((await visitor.get(f"/trace/{trace_id}?open=2")).text)
    for row, logprob in zip(table, logprobs, strict=True):
        assert float(row.replace("−", "-").split()[-2]) == pytest.approx(logprob, rel=1e-2, abs=1e-4)
    assert [row.replace("−", "-").split()[-1] for row in table[: len(GAPS)]] == [
        "0", "-0.0200", "+0.0700", "-0.300", "+0.800", "-2.00",
    ]  # fmt: skip
    other = (await visitor.get(f"/trace/{trace_id}?open=4")).text
    assert "Trainer logprob" not in other, "no pass went over the second turn"


async def test_differences_are_coloured_and_said(passed, visitor):
    by_gap = (await visitor.get(f"/trace/{passed[0]}?by=trainer")).text
    levels = re.findall(r'<span class="p(\d)" title="[^"]* likely to the trainer', by_gap)
    assert levels[: len(GAPS)] == ["0", "0", "1", "2", "3", "4"]
    assert set(levels[len(GAPS) :]) == {"0"}
    unseen = re.findall(r'class="unseen"> \(([^)]*)\)', by_gap)
    assert unseen == [
        "0.070 nats more likely to the trainer",
        "0.30 nats less likely to the trainer",
        "0.80 nats more likely to the trainer",
        "2.0 nats less likely to the trainer",
    ]
    assert "unseen" not in (await visitor.get(f"/trace/{passed[0]}")).text
    assert (await visitor.get(f"/trace/{passed[0]}?by=x")).status_code == 422


async def test_the_api_tells_the_trainers_logprobs_and_the_pass(scene, passed, other_team):
    trace_id, operation_id, checkpoint, logprobs = passed
    told = (await scene.team.http.get(f"/v2/traces/{trace_id}")).json()
    figures = {
        "num_tokens": 40,
        "mean_abs_difference": pytest.approx(sum(map(abs, GAPS)) / 40, rel=1e-5),
        "max_abs_difference": pytest.approx(2, rel=1e-5),
        "kl_k3": pytest.approx(sum(math.expm1(gap) - gap for gap in GAPS) / 40, rel=1e-4),
    }
    assert told["trainer_difference"] == figures
    first, second = [turn["trainer"] for turn in told["turns"]]
    assert second is None
    assert first.pop("computed_at")
    assert np.array(first.pop("logprobs"), np.float32).tobytes() == logprobs.tobytes()
    assert first == {
        "operation_id": str(operation_id),
        "kind": "forward_backward",
        "model_id": str(checkpoint.model_id),
        "checkpoint_id": str(checkpoint.id),
        "step": 7,
        "difference": figures,
    }
    brief = (await scene.team.http.get(f"/v2/traces/{trace_id}?tokens=false")).json()
    assert "logprobs" not in brief["turns"][0]["trainer"]
    assert (await other_team.http.get(f"/v2/traces/{trace_id}")).status_code == 404


async def test_a_pass_of_another_model_is_named_as_one(scene, passed, visitor, database):
    _, _, checkpoint, _ = passed
    async with database.session() as session:
        trace = trace_row(await team_id(database, scene.team), model_id=scene.checkpoint.model_id)
        session.add(trace)
    await tell(database, FileBlobStore(Path("/nonexistent")), trace, num_turns=1)
    async with database.session() as session:
        await pass_over(session, trace, checkpoint, turns(1, 40)[0])
    assert f"Trainer at {checkpoint.name} of another model step 7" in await words(visitor, f"/trace/{trace.id}")


async def test_the_trainer_is_asked_by_a_button_where_it_can_help(scene, passed, visitor, origin, database):
    def button(page: httpx.Response) -> bool:
        return f"{page.request.url.path.replace('/trace/', '/forms/traces/')}/logprobs" in page.text

    assert "Score again with the trainer" in await words(visitor, f"/trace/{passed[0]}")
    pages = [await visitor.get(f"/trace/{one}") for one in (scene.told, scene.failed, scene.long)]
    assert [button(page) for page in pages] == [True, False, False], "one failed, one is of no model"
    form = f"/forms/traces/{scene.failed}/logprobs"
    assert (await visitor.post(form, data={"csrf_token": "x"})).status_code == 403
    token = re.search(r'name="csrf_token" value="([^"]+)"', pages[0].text)
    assert token
    reply = await visitor.post(form, data={"csrf_token": token[1]})
    assert reply.status_code == 422
    assert "It is not on record which model" in html.unescape(reply.text)
    for path in ("x", uuid.uuid4()):
        reply = await visitor.post(f"/forms/traces/{path}/logprobs", data={"csrf_token": token[1]})
        assert reply.status_code == 404
    async with signed_in(origin, await key_of(database, scene.team, Grant("looks", "viewer"))) as looker:
        assert not button(await looker.get(f"/trace/{scene.told}"))


async def test_a_rollout_that_cannot_be_trained_on_is_not_scored_either(scene, other_team, model):
    http = scene.team.http
    for body, status, sentence in (
        ({}, 422, "not on record which model"),
        ({"model": "no-such"}, 404, "no-such"),
        ({"model": "org/Tiny-Base"}, 403, "is a base model"),
        ({"model": scene.checkpoint.model_id.hex}, 422, "this rollout ended in an error"),
    ):
        reply = await http.post(f"/v2/traces/{scene.failed}/logprobs", json=body)
        assert (reply.status_code, sentence in reply.json()["detail"]) == (status, True), reply.text
    reply = await other_team.http.post(f"/v2/traces/{scene.told}/logprobs", json={"model": model["id"]})
    assert reply.status_code == 404


async def test_without_telemetry_the_gateways_record_is_told(scene, visitor):
    said = await words(visitor, f"/trace/{scene.untold}")
    assert "Put together from what the gateway served" in said
    assert said.count("12+30=?") == 1
    assert [said.count(f"Turn {number}:") for number in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert said.count("Tool result 42") == 2
    assert "Tools offered add" in said
    assert "their ids stand for them" in said


async def test_a_long_rollout_comes_in_parts(scene, visitor):
    first = await words(visitor, f"/trace/{scene.long}")
    assert "1 to 40 of 202" in first
    assert "Turn 20: Agent" in first
    assert "Turn 21: Agent" not in first
    last = await words(visitor, f"/trace/{scene.long}?from=99999")
    assert "201 to 202 of 202" in last
    opened = await words(visitor, f"/trace/{scene.long}?open=100&token=150")
    assert "Turn 50: Agent" in opened
    assert "151 to 200 of 200" in opened


async def test_errors_and_flags_are_explained(scene, visitor):
    said = await words(visitor, f"/trace/{scene.failed}")
    assert "<b>boom</b>" in said
    assert "Prompts held images" in said
    assert "Nothing on record yet" in said


async def test_another_teams_jobs_and_rollouts_are_not_there(scene, other_team, origin):
    async with signed_in(origin, other_team.key) as browser:
        for path in (f"/jobs/{scene.job}", f"/jobs/{scene.job}?tab=rollouts", f"/trace/{scene.told}"):
            reply = await browser.get(path)
            assert reply.status_code == 404, path
            assert "That is not possible" in reply.text
        for path in ("/jobs", "/traces", f"/traces?checkpoint={scene.checkpoint.id}"):
            assert rows_of((await browser.get(path)).text) == []


@pytest.mark.parametrize("path", ["/jobs", "/jobs/x", "/jobs/x?tab=rollouts", "/traces", "/trace/x?open=2"])
async def test_without_a_session_they_lead_to_the_form(path, origin):
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        reply = await browser.get(path)
    assert (reply.status_code, reply.headers["location"].partition("?")[0]) == (303, "/login")


BAD = [
    "/jobs?status=x", "/jobs?cursor=x", "/jobs?name=%00", "/jobs?taskset=%ff%00", "/jobs/x", "/jobs/%00",
    "/jobs/{job}?tab=x", "/jobs/{job}?verdict=x", "/jobs/{job}?cursor=x", "/jobs/{job}?tab=rollouts&cursor=x",
    "/jobs/{job}?tab=rollouts&min_reward=nan", "/jobs/{job}?tab=rollouts&group=%00", "/traces?model=x",
    "/traces?checkpoint=1", "/traces?max_reward=1e999", "/traces?task=%00", "/trace/x", "/trace/%00",
    "/trace/{told}?open=0", "/trace/{told}?from=-1", "/trace/{told}?token=x", "/trace/{nobody}", "/jobs/{nobody}",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD)
async def test_no_address_is_an_internal_error(path, scene, visitor):
    reply = await visitor.get(path.format(job=scene.job, told=scene.told, nobody=uuid.uuid4()))
    assert reply.status_code in (404, 422), reply.text
    assert "That is not possible" in reply.text


async def test_any_upload_has_a_page(team, origin):
    """JSON that no client of ours sends, in every place where a page looks."""
    odd: list[Any] = [None, 3, "x\ud800\x00", [1, [None]], {"type": "image", "data": "A"}, {"text": 3}, True]
    steps: list[Any] = [None, 3, {"span_id": "s"}]
    for index, value in enumerate(odd):
        for source in ("agent", "tool", "task", "user", "system", "subagent", "odd"):
            names = ("content", "reasoning", "tool_calls", "call", "result", "task_call", "messages", "error", "raw")
            payload = {"step_id": len(steps), "source": source, "subagent": value, **dict.fromkeys(names, value)}
            nested: dict[str, Any] = {
                "call": {"name": value, "arguments": value},
                "result": {"content": value, "isError": value},
            }
            for one in (
                payload,
                {**payload, **nested, "tool_calls": [value, {"function": value}], "messages": [value]},
            ):
                attributes = {"hud.schema": "hud.step.v1", "hud.payload": one}
                steps.append({"span_id": f"{index}-{len(steps)}", "attributes": attributes})
    trace = uuid.uuid4()
    left = {"status": "odd", "reward": -1e300, "error": "\x00", "evaluation_result": {"score": "x", "y": [None]}}
    await team.http.post(f"/v2/trace/{trace}/exit", json={**left, "stop_reason": "odd"})
    reply = await team.http.post(f"/trace/{trace}/telemetry-upload", content=json.dumps({"telemetry": steps}))
    assert reply.status_code == 200
    async with signed_in(origin, team.key) as browser:
        for path in (f"/trace/{trace}", f"/trace/{trace}?from=40", f"/trace/{trace}?from=80", f"/trace/{trace}?open=3"):
            assert (await browser.get(path)).status_code == 200
        assert len(rows_of((await browser.get("/traces")).text)) == 1


async def test_a_rollout_that_runs_is_followed_and_one_that_ended_is_not(scene, visitor, team, origin):
    ended = (await visitor.get(f"/trace/{scene.told}")).text
    assert "data-live" not in ended
    trace = uuid.uuid4().hex
    await team.http.post(f"/v2/trace/{trace}/enter", json={"task_slug": "t"})
    async with signed_in(origin, team.key) as browser:
        assert 'id="story" data-live' in (await browser.get(f"/trace/{trace}")).text


async def test_pages_of_rollouts_hold_nothing_inline(scene, visitor):
    for path in (
        "/jobs",
        "/jobs/{job}",
        "/jobs/{job}?tab=rollouts",
        "/traces",
        "/trace/{told}",
        "/trace/{told}?open=2",
    ):
        reply = await visitor.get(path.format(**{name: getattr(scene, name) for name in ("job", "told")}))
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style| style=| on\w+=|<b>", reply.text), path


@contextmanager
def counted_statements(marker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """As `counted_queries`, with the statements that go to the driver."""
    execute = psycopg.AsyncConnection.execute

    async def noted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        if structlog.contextvars.get_contextvars().get("request_id") == marker:
            seen.append(str(query))
        return await execute(self, query, *args, **options)

    with counted_queries(marker) as seen, monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "execute", noted)
        yield seen


@pytest.fixture(scope="module")
async def crowd(origin: str, database: AsyncDatabase) -> AsyncIterator[tuple[uuid.UUID, httpx.AsyncClient]]:
    """A job of 10,000 rollouts in groups of 8, besides a hundred small ones, and who looks at them."""
    async with new_team(origin, database) as team, signed_in(origin, team.key) as browser:
        job_id = await add_crowd(database, team)
        yield job_id, browser


async def add_crowd(database: AsyncDatabase, team: Team) -> uuid.UUID:
    async with database.session() as session:
        owner = await team_id(database, team)
        job = await add_job(session, owner, "crowd")
        await session.execute(
            text("""
                insert into traces (team_id, id, job_id, group_id, task_slug, status, reward, created_at)
                select cast(:team as uuid), gen_random_uuid(), cast(:job as uuid), md5((n / 8)::text),
                    'a-task-with-a-name-' || n / 8 % 500, 'completed', (n * 7919 % 11 > 4)::int,
                    now() - n * interval '1 second'
                from generate_series(1, 10000) n
            """),
            {"team": owner, "job": job.id},
        )
        for number in range(100):
            await add_groups(session, await add_job(session, owner, f"job-{number}"), [[0.5]])
    return job.id


BUDGETS = [
    ("/jobs", 3, 45_000),
    ("/jobs/{crowd}", 3, 70_000),
    ("/jobs/{crowd}?verdict=teaches", 3, 70_000),
    ("/jobs/{crowd}?tab=rollouts", 5, 50_000),
    ("/traces", 3, 55_000),
    ("/trace/{told}", 10, 24_000),
    ("/trace/{long}", 10, 150_000),
    ("/trace/{long}?open=100", 10, 190_000),
]


@pytest.mark.parametrize(("path", "most_statements", "most_bytes"), BUDGETS)
async def test_ten_thousand_rollouts_cost_few_statements_and_bytes(
    path, most_statements, most_bytes, scene, crowd, visitor, monkeypatch
):
    marker, (job_id, looker) = uuid.uuid4().hex, crowd
    with counted_statements(marker, monkeypatch) as statements:
        reply = await (visitor if "/trace/" in path else looker).get(
            path.format(crowd=job_id, told=scene.told, long=scene.long), headers={"X-Request-Id": marker}
        )
    assert reply.status_code == 200
    assert 2 <= len(statements) <= most_statements, "\n".join(statements)
    assert len(reply.content) <= most_bytes
