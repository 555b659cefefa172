"""The pages as HTTP: who sees them, what they refuse, and how much they cost."""

from __future__ import annotations

import html
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.app import create_app
from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.process.settings import ServerSettings
from store.database import AsyncDatabase
from store.tables import ApiKeyRow, CheckpointRow, EventRow, ModelRow, TeamRow, WebSessionRow
from tests.contract.conftest import Team, batch, serving
from tests.pages.scenes import add_model, grow

HTML = {"Accept": "text/html,application/xhtml+xml"}


@asynccontextmanager
async def signed_in(origin: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    options: dict[str, Any] = {"timeout": 30, "trust_env": False, "verify": False}
    async with httpx.AsyncClient(base_url=origin, headers=HTML, **options) as browser:
        reply = await browser.post("/login", data={"key": key, "next": "/"})
        assert reply.status_code == 303, reply.text
        yield browser


@pytest.fixture
async def visitor(origin: str, team: Team) -> AsyncIterator[httpx.AsyncClient]:
    async with signed_in(origin, team.key) as browser:
        yield browser


@pytest.fixture(scope="module")
async def stranger(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        yield browser


async def team_id(database: AsyncDatabase, team: Team) -> uuid.UUID:
    async with database.session() as session:
        return await team_id_in(session, team)


async def team_id_in(session: AsyncSession, team: Team) -> uuid.UUID:
    return (await session.scalars(select(TeamRow.id).where(TeamRow.name == team.name))).one()


def csrf_token(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


async def test_a_client_with_a_key_gets_json_where_a_browser_gets_pages(team, model, visitor):
    for path in ("/models", "/models/", f"/models/{model['model_name']}"):  # with a slash: the legacy API's spelling
        for accept in ("*/*", "text/html"):
            reply = await team.http.get(path, headers={"Accept": accept})
            assert reply.headers["content-type"] == "application/json", path
    page = await visitor.get(f"/models/{model['id']}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert model["model_name"] in page.text
    assert (await visitor.get("/models")).headers["location"] == "/"


async def test_without_key_and_without_asking_for_html_the_api_answers_as_before(origin):
    async with httpx.AsyncClient(base_url=origin, trust_env=False, verify=False) as client:
        for path in ("/models", "/models/x", "/", "/system", "/jobs/1"):
            reply = await client.get(path)
            assert reply.status_code == 401, path
            assert "no API key" in str(reply.json()), path


PAGES = ["/", "/models", "/models/x", "/models/x?tab=checkpoints", "/system", "/keys", "/jobs/1", "/models/x/head?to=y"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_link_leads_to_the_form_and_back(path, stranger):
    reply = await stranger.get(path)
    assert reply.status_code == 303
    form = await stranger.get(reply.headers["location"])
    assert form.status_code == 200
    found = re.search(r'name="next" value="([^"]*)"', form.text)
    assert found
    assert html.unescape(found[1]) == path


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "//[",
        "",
    ],
)
async def test_signing_in_never_leads_to_another_site(path, team, origin):
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        reply = await browser.post("/login", data={"key": team.key, "next": path})
    assert (reply.status_code, reply.headers["location"]) == (303, "/")


@pytest.mark.parametrize("sender", ["https://evil.example", "null", "http://[::1", "//["])
async def test_a_form_of_another_site_signs_nobody_in(sender, team, origin):
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        reply = await browser.post("/login", data={"key": team.key}, headers={"Origin": sender})
    assert reply.status_code == 403
    assert "sent by another site" in reply.text


async def test_the_cookie_is_out_of_reach_of_scripts_and_its_secret_is_not_stored(team, origin, database):
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        reply = await browser.post("/login", data={"key": team.key, "next": "/system"})
        cookie = reply.headers["set-cookie"]
        assert reply.headers["location"] == "/system"
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        token = browser.cookies["headway_session"]
    async with database.session() as session:
        stored = [row.token_hash for row in await session.scalars(select(WebSessionRow))]
        assert token.encode() not in stored
        logins = select(func.count()).where(
            EventRow.action == "login", EventRow.team_id == await team_id(database, team)
        )
        assert await session.scalar(logins) == 1


async def test_a_wrong_key_is_told_on_the_form(stranger):
    reply = await stranger.post("/login", data={"key": "hw_wrong", "next": "/system"})
    assert reply.status_code == 401
    assert "Unknown API key" in reply.text
    assert 'value="/system"' in reply.text


async def test_a_right_key_opens_whatever_wrong_ones_came_from_its_address(database_url, tmp_path, team):
    app = create_app(
        ServerSettings(database_url, f"file://{tmp_path}", "token")
    )  # which counts them apart from other tests'
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, headers=HTML, trust_env=False, verify=False) as proxy,
    ):
        replies = [await proxy.post("/login", data={"key": "hw_wrong", "next": "/"}) for _ in range(11)]
        assert replies[-1].status_code == 429
        assert int(replies[-1].headers["retry-after"]) > 0
        assert (await proxy.post("/login", data={"key": team.key, "next": "/"})).status_code == 303


async def test_a_session_ends_with_its_key_with_time_and_when_told_to(team, origin, database):
    async with signed_in(origin, team.key) as first, signed_in(origin, team.key) as second:
        page = await first.get("/")
        assert (await first.post("/logout", data={"csrf_token": csrf_token(page.text)})).status_code == 303
        assert (await first.get("/")).status_code == 303
        assert (await second.get("/")).status_code == 200
        async with database.session() as session:
            mine = select(ApiKeyRow.id).where(ApiKeyRow.team_id == await team_id_in(session, team))
            ended = update(WebSessionRow).where(WebSessionRow.key_id.in_(mine))
            await session.execute(ended.values(expires_at=func.clock_timestamp()))
        assert (await second.get("/")).status_code == 303
    async with signed_in(origin, team.key) as third:
        async with database.session() as session:
            await session.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.team_id == await team_id_in(session, team))
                .values(revoked_at=func.clock_timestamp())
            )
        assert (await third.get("/")).status_code == 303
        assert (await third.get("/live/models/x/series")).status_code == 303


async def test_forms_of_other_sessions_and_of_other_sites_do_nothing(team, other_team, model, origin, database):
    step = await team.step(model["id"])
    async with signed_in(origin, team.key) as mine, signed_in(origin, other_team.key) as theirs:
        page = (await mine.get(f"/models/{model['id']}/head?to=base")).text
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        foreign = csrf_token((await theirs.get("/")).text)
        path = f"/forms/models/{model['id']}/head"
        good = {"csrf_token": fields["csrf_token"], "to": "base", "head": fields["head"]}
        for bad in ({**good, "csrf_token": foreign}, {**good, "csrf_token": ""}, {"to": "base"}):
            assert (await mine.post(path, data=bad)).status_code == 403
        for header in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            assert (await mine.post(path, data=good, headers=header)).status_code == 403
        assert (await theirs.post(path, data={**good, "csrf_token": foreign})).status_code == 404
        head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
        assert head["checkpoint_id"] == step["checkpoint_id"]
        assert (await mine.post(path, data=good, headers={"Origin": origin})).status_code == 303
        assert (await team.http.get(f"/v2/models/{model['id']}/head")).json()["checkpoint_id"] is None
    async with database.session() as session:
        moved = select(func.count()).where(EventRow.action == "set_head", EventRow.subject_id == uuid.UUID(model["id"]))
        assert await session.scalar(moved) == 1


async def test_the_question_says_what_is_dropped_and_a_head_that_moved_asks_again(team, model, visitor):
    first, second = await team.step(model["id"]), await team.step(model["id"])
    await team.train(model["id"], "forward-backward", batch())
    nodes = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()
    page = (await visitor.get(f"/models/{model['id']}/head", params={"to": nodes[0]["name"]})).text
    assert "1 gradient batch not yet applied is dropped" in page
    assert "extends the tree from step 1" in page
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": first["checkpoint_id"]})
    await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": second["checkpoint_id"]})
    reply = await visitor.post(f"/forms/models/{model['id']}/head", data=fields)
    assert reply.status_code == 409
    assert "The head has moved since you opened this page" in reply.text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', reply.text))
    assert (await visitor.post(f"/forms/models/{model['id']}/head", data=fields)).status_code == 303
    head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
    assert head["checkpoint_id"] == first["checkpoint_id"]


async def test_another_teams_model_is_not_there(model, other_team, origin):
    async with signed_in(origin, other_team.key) as browser:
        for path in ("/models/{}", "/models/{}?tab=checkpoints", "/models/{}/head?to=base", "/live/models/{}/series"):
            reply = await browser.get(path.format(model["id"]))
            assert reply.status_code == 404, path
            assert model["model_name"] not in reply.text
        assert model["model_name"] not in (await browser.get("/")).text
        assert model["model_name"] not in (await browser.get("/system")).text


async def key_of(database: AsyncDatabase, team: Team, grant: Grant) -> str:
    async with database.session() as session:
        return (await issue(session, await team_id_in(session, team), grant, COMMAND_LINE))[0]


async def test_keys_are_shown_to_those_who_manage_them_and_other_teams_keys_to_operators(
    team, other_team, visitor, database, origin
):
    reply = await visitor.get("/keys")  # a member's
    assert reply.status_code == 403
    assert "manage the team" in reply.text
    assert 'href="/keys"' not in reply.text
    async with signed_in(origin, await key_of(database, team, Grant("boss", "team_admin"))) as browser:
        page = (await browser.get("/keys")).text
        assert "boss" in page
        assert team.key not in page
        assert other_team.name not in page
    async with signed_in(origin, await key_of(database, team, Grant("operator", "admin"))) as browser:
        assert (await browser.get("/keys?page=2")).status_code == 200
        number, page = 1, (await browser.get("/keys")).text
        while other_team.name not in page:  # other tests make teams, more than a page of them
            number += 1
            assert f"teams={number}#teams" in page
            page = (await browser.get(f"/keys?teams={number}")).text


async def test_who_may_only_read_sees_the_tree_and_moves_no_head(team, model, database, origin):
    step = await team.step(model["id"])
    async with signed_in(origin, await key_of(database, team, Grant("viewer", "viewer"))) as browser:
        page = (await browser.get(f"/models/{model['id']}?tab=checkpoints&node=base")).text
        assert 'id="set-head"' not in page
        assert (await browser.get(f"/models/{model['id']}/head?to=base")).status_code == 403
        fields = {"csrf_token": csrf_token(page), "to": "base", "head": "whatever"}
        assert (await browser.post(f"/forms/models/{model['id']}/head", data=fields)).status_code == 403
    head = (await team.http.get(f"/v2/models/{model['id']}/head")).json()
    assert head["checkpoint_id"] == step["checkpoint_id"]


async def test_a_key_that_may_only_sample_does_not_sign_in(team, database, stranger):
    key = await key_of(database, team, Grant("sampler", "member", frozenset({"sample"})))
    reply = await stranger.post("/login", data={"key": key, "next": "/"})
    assert reply.status_code == 403
    assert "may not read" in reply.text


async def test_a_key_for_one_model_shows_that_one_alone(team, model, base, database, origin):
    other = await team.fork(str(base.id))
    grant = Grant("narrow", "member", model_ids=frozenset({uuid.UUID(model["id"])}))
    async with signed_in(origin, await key_of(database, team, grant)) as browser:
        page = (await browser.get("/")).text
        assert model["model_name"] in page
        assert other["model_name"] not in page
        for path in ("/models/{}", "/models/{}/head?to=base", "/live/models/{}/series"):
            assert (await browser.get(path.format(model["id"]))).status_code == 200
            assert (await browser.get(path.format(other["id"]))).status_code == 403
        for one, status in ((model, 200), (other, 403)):
            job, trace = uuid.uuid4(), uuid.uuid4()
            await team.http.post(f"/v2/trace/job/{job}/enter", json={"name": f"of {one['id']}"})
            await team.http.post(f"/v2/trace/{trace}/enter", json={"job_id": str(job), "model": one["id"]})
            for path in (f"/jobs/{job}", f"/jobs/{job}?tab=rollouts", f"/trace/{trace}"):
                assert (await browser.get(path)).status_code == status, path
            assert (trace.hex in (await browser.get("/traces")).text.replace("-", "")) == (status == 200)
            assert (job.hex in (await browser.get("/jobs")).text.replace("-", "")) == (status == 200)


async def test_a_paused_model_says_why(team, model, visitor):
    await team.http.post(f"/v2/models/{model['id']}/pause", json={"reason": "the reward looks gamed"})
    page = (await visitor.get(f"/models/{model['id']}")).text
    assert "paused by the team" in page
    assert "the reward looks gamed" in page


async def test_what_a_name_holds_is_text_on_every_page(team, base, visitor, database):
    name = "<b id=x>&\"'</b>"
    async with database.session() as session:
        model = ModelRow(
            team_id=await team_id(database, team),
            slug=name,
            name=name,
            base_id=base.id,
            forked_from_id=base.id,
            lora={},
        )
        session.add(model)
    for path in ("/", f"/models/{model.id}", f"/models/{model.id}?tab=checkpoints", f"/models/{model.id}/head?to=base"):
        page = await visitor.get(path)
        assert page.status_code == 200
        assert "<b id=x>" not in page.text
        assert "&lt;b id=x&gt;" in page.text


BAD = ["?tab=x", "?tab=checkpoints&node=%00", "?tab=checkpoints&before=-1", "?tab=checkpoints&node=nothing", "%00"]


@pytest.mark.parametrize("suffix", BAD)
async def test_no_address_is_an_internal_error(suffix, visitor, model):
    reply = await visitor.get(f"/models/{model['id']}{suffix}")
    assert reply.status_code in (404, 422)
    assert "That is not possible" in reply.text
    series = await visitor.get(f"/live/models/{model['id']}/series?after=99999999999999999999")
    assert series.status_code == 422


async def test_pages_carry_a_strict_policy_and_nothing_inline(visitor, model):
    for path in (
        "/",
        f"/models/{model['id']}",
        f"/models/{model['id']}?tab=checkpoints",
        "/system",
        "/keys",
        "/nothing",
    ):
        reply = await visitor.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style| style=| on\w+=|https?://", reply.text), path


async def test_static_files_are_kept_for_good_under_the_hash_of_their_content(visitor):
    page = (await visitor.get("/system")).text
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        reply = await visitor.get(link)
        assert reply.status_code == 200
        assert "immutable" in reply.headers["cache-control"]
    older = re.sub(r"/static/\w+/", "/static/0123/", links[0])
    assert (await visitor.get(older)).headers["cache-control"] == "no-cache"
    for path in ("/static/x/../../app.py", "/static/x/%2e%2e/keys.py", "/static/x/nothing.js"):
        assert (await visitor.get(path)).status_code == 404


async def test_a_page_that_did_not_change_is_not_sent_again(team, model, visitor):
    path = f"/models/{model['id']}?tab=checkpoints"
    tag = (await visitor.get(path)).headers["etag"]
    again = await visitor.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    await team.step(model["id"])
    assert (await visitor.get(path, headers={"If-None-Match": tag})).status_code == 200


async def test_series_tell_new_points_and_what_a_rollback_left_behind(team, model, visitor, database):
    path = f"/live/models/{model['id']}/series"
    assert (await visitor.get(path)).json()["total"] == 0
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        nodes = await grow(session, row, 5, seed=1, age_s=1000)
        nodes[2].metrics = {**nodes[2].metrics, "grad_norm": "NaN"}
    whole = (await visitor.get(path)).json()
    assert (whole["total"], whole["first"], whole["steps"]) == (5, 0, [1, 2, 3, 4, 5])
    assert [value is None for value in whole["series"]["grad_norm"]] == [False, False, True, False, False]
    assert (whole["left_behind"], whole["rollbacks"]) == ([], [])
    async with database.session() as session:
        await grow(session, await session.get_one(ModelRow, row.id), 2, start=nodes[1], seed=2, age_s=500)
    fresh = (await visitor.get(path, params={"after": 5})).json()
    assert (fresh["total"], fresh["first"], fresh["steps"]) == (7, 5, [3, 4])
    assert fresh["left_behind"] == [[2, 4]]
    assert fresh["rollbacks"] == [[5, nodes[1].name]]


async def test_what_a_checkpoint_page_shows_is_what_the_row_holds(team, model, visitor, database):
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        nodes = await grow(session, row, 3, seed=3)
        nodes[0].files_removed_at = nodes[0].state_removed_at = func.clock_timestamp()
        nodes[1].pinned_at = func.clock_timestamp()
    path = f"/models/{model['id']}?tab=checkpoints&node="
    pruned = (await visitor.get(path + nodes[0].name)).text
    assert "cannot be the head" in pruned
    assert 'id="set-head"' not in pruned
    pinned = (await visitor.get(path + nodes[1].name)).text
    assert "pinned" in pinned
    assert "Roll back to here" in pinned
    assert "5.1 MiB" in pinned
    assert "grad_norm" in pinned
    refused = await visitor.get(f"/models/{model['id']}/head", params={"to": nodes[0].name})
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', refused.text))
    reply = await visitor.post(f"/forms/models/{model['id']}/head", data=fields)
    assert reply.status_code == 410
    assert "removed by the retention policy" in reply.text


@contextmanager
def counted_queries(marker: str) -> Iterator[list[str]]:
    """Statements of the request with this id: the server runs in this process, next to others."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if structlog.contextvars.get_contextvars().get("request_id") == marker:
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture(scope="module")
async def thousand(standing_team: Team, base: ModelRow, database: AsyncDatabase) -> list[str]:
    """Ids of two models with 1,000 checkpoints each: one straight, one with a branch every third step."""
    owner = await team_id(database, standing_team)
    async with database.session() as session:
        straight = await add_model(session, owner, base.id, "straight-thousand")
        await grow(session, straight, 1000, seed=10)
        bushy = await add_model(session, owner, base.id, "bushy-thousand")
        nodes = await grow(session, bushy, 4, seed=11, age_s=90_000)
        trunk: list[CheckpointRow] = nodes
        for index in range(332):
            branch = await grow(session, bushy, 3, start=trunk[-1], seed=100 + index, age_s=80_000 - 100 * index)
            trunk.append(branch[0])
    return [str(straight.id), str(bushy.id)]


BUDGETS = [
    ("/", 6, 40_000),
    ("/models/{}", 8, 16_000),
    ("/models/{}?tab=checkpoints", 11, 110_000),
    ("/models/{}?tab=checkpoints&before=500", 11, 110_000),
    ("/models/{}?tab=guard", 11, 24_000),
    ("/models/{}/head?to=base", 6, 16_000),
    ("/models/{}/pause", 4, 8_000),
    ("/models/{}/guard/rules/held_out", 4, 8_000),
    ("/live/models/{}/series", 6, 110_000),
    ("/live/models/{}/series?after=999", 6, 12_000),
]


@pytest.mark.parametrize(("path", "most_queries", "most_bytes"), BUDGETS)
async def test_a_thousand_checkpoints_cost_few_queries_and_bytes(
    path, most_queries, most_bytes, thousand, standing_team, origin
):
    async with signed_in(origin, standing_team.key) as browser:
        for model_id in thousand:
            marker = uuid.uuid4().hex
            with counted_queries(marker) as queries:
                reply = await browser.get(path.format(model_id), headers={"X-Request-Id": marker})
            assert reply.status_code == 200
            assert 2 <= len(queries) <= most_queries, "\n".join(queries)
            assert len(reply.content) <= most_bytes
