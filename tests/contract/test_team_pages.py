"""What members see of their team: quotas, the audit log; and of the service: what is loaded, and its traffic."""

from __future__ import annotations

import re
import uuid

import pytest

from server.app import create_app
from server.auth.issuing import Grant
from server.process.settings import ServerSettings
from tests.contract.conftest import serving
from tests.contract.test_pages import key_of, signed_in


@pytest.fixture
async def visitor(origin, team):
    async with signed_in(origin, team.key) as browser:
        yield browser


async def test_members_see_what_their_team_uses_and_may_use(team, model, visitor):
    page = (await visitor.get("/team")).text
    assert team.name in page
    assert re.search(r"Models</th><td class=\"num\">1</td><td class=\"num\">none</td>", page)
    assert "/teams/" not in page, "operators alone set quotas"


async def test_the_audit_log_is_shown_to_members_of_the_team_and_filtered(team, other_team, model, visitor, origin):
    await team.http.post(f"/v2/models/{model['id']}/pause", json={"reason": "it <b>looks</b> odd"})
    page = (await visitor.get("/team/audit")).text
    assert f'<a href="/models/{model["id"]}">{model["model_name"]}</a>' in page
    assert "reason: it &lt;b&gt;looks&lt;/b&gt; odd" in page
    paused = (await visitor.get("/team/audit", params={"action": "pause"})).text
    assert paused.count('<th scope="row">') == 1
    none = (await visitor.get("/team/audit", params={"subject": str(uuid.uuid4())})).text
    assert "Nothing like that is in the log" in none
    for bad in ("subject=x", "action=%00", "cursor=x", "key=1"):
        assert (await visitor.get(f"/team/audit?{bad}")).status_code == 422, bad
    async with signed_in(origin, other_team.key) as stranger:
        assert model["model_name"] not in (await stranger.get("/team/audit")).text


async def test_a_key_for_one_model_and_an_operator_see_their_part_of_the_log(
    team, other_team, model, base, database, origin
):
    other = await team.fork(str(base.id))
    grant = Grant("narrow", "member", model_ids=frozenset({uuid.UUID(model["id"])}))
    async with signed_in(origin, await key_of(database, team, grant)) as browser:
        page = (await browser.get("/team/audit")).text
        assert model["model_name"] in page
        assert other["model_name"] not in page
    async with signed_in(origin, await key_of(database, other_team, Grant("operator", "admin"))) as browser:
        page = (await browser.get("/team/audit", params={"subject": model["id"]})).text
        assert "of all teams" in page
        assert f'<td class="muted">{team.name}</td>' in page


async def test_system_says_what_serves_what_is_loaded_and_what_was_refused(team, database_url, tmp_path):
    app = create_app(ServerSettings(database_url, f"file://{tmp_path}", "token"))
    async with serving(app) as url, signed_in(url, team.key) as visitor:  # a process of which nothing else was asked
        assert (await visitor.get("/nothing-at-all")).status_code == 404
        page = (await visitor.get("/system")).text
    assert re.search(r"Requests</dt><dd>\d+\.\d\d per second", page)
    assert re.search(r"Headway \d+\.\d+", page)
    assert re.search(r'<th scope="row" class="num">404</th><td class="mono">GET [^<]+</td>', page)


async def test_models_are_filtered_and_sorted(team, base, database, visitor):
    first, second = await team.fork(str(base.id)), await team.fork(str(base.id))
    await team.step(second["id"])
    page = (await visitor.get("/", params={"sort": "-step"})).text
    assert page.index(second["id"]) < page.index(first["id"])
    page = (await visitor.get("/", params={"sort": "step"})).text
    assert page.index(first["id"]) < page.index(second["id"])
    page = (await visitor.get("/", params={"text": first["model_name"]})).text
    assert first["id"] in page
    assert second["id"] not in page
    assert "No model is like that" in (await visitor.get("/", params={"tag": "none has it"})).text
    assert (await visitor.get("/?sort=colour")).status_code == 422


async def test_every_page_links_its_help(team, model, visitor):
    for path, help_page in (
        ("/", "/help/pages"),
        (f"/models/{model['id']}", "/help/metrics"),
        ("/compare", "/help/pages#curves-of-several-models"),
        ("/runs", "/help/runs#follow-it"),
        ("/team/audit", "/help/admin#teams-and-quotas"),
    ):
        found = re.findall(r'class="help small" href="([^"]+)"', (await visitor.get(path)).text)
        assert found == [help_page]
