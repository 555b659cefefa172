"""Buttons of the pages as HTTP: every form × every kind of key, and what each of them does."""

from __future__ import annotations

import asyncio
import html
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import select, text, update

from server.app import create_app
from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.guard.settings import read_set, write_guard
from server.guard.types import RuleSettings
from server.process.settings import ServerSettings
from store.database import AsyncDatabase
from store.tables import (
    AlarmRow,
    ApiKeyRow,
    EventRow,
    ModelRow,
    RunRow,
    SamplerRow,
    TeamRow,
    TraceCommentRow,
    TrainerRow,
)
from tests.contract.conftest import Team, new_team
from tests.contract.stand_ins import add_checkpoint
from tests.contract.test_pages import counted_queries, csrf_token, key_of, signed_in, team_id, team_id_in, visitor
from tests.pages.rollouts import trace_row
from tests.pages.runs import add_run

__all__ = ["visitor"]

ROLES = ("viewer", "member", "team_admin", "admin")
TRAIN, KEYS, ADMIN = set(ROLES[1:]), set(ROLES[2:]), {"admin"}
BEYOND = {"operator"}
"""Of another team, an operator alone reaches it."""
NOBODY = set[str]()
OF_ANY_TEAM = {"operator", "other member"}
"""Forms that name nothing of the team: everybody has one of their own."""

# The page that asks (None: there is none) and the form: which roles of the team may, who of other teams may, and what
# the form holds.
FORMS: dict[tuple[str | None, str], tuple[set[str], set[str], dict[str, str]]] = {
    ("/models/{model}/head?to=base", "/forms/models/{model}/head"): (TRAIN, NOBODY, {"to": "base"}),
    ("/models/{model}/pause", "/forms/models/{model}/pause"): (TRAIN, NOBODY, {"reason": "a test"}),
    ("/models/{model}/resume", "/forms/models/{model}/resume"): (TRAIN, NOBODY, {}),
    ("/models/{model}/edit", "/forms/models/{model}/edit"): (TRAIN, NOBODY, {"name": "has-a-name", "tags": "a, b"}),
    ("/models/{model}/delete", "/forms/models/{model}/delete"): (
        TRAIN,
        NOBODY,
        {"name": "another", "checkpoints": "0"},
    ),
    (
        "/models/{model}/checkpoints/{checkpoint}/delete",
        "/forms/models/{model}/checkpoints/{checkpoint}/delete",
    ): (TRAIN, NOBODY, {}),
    (None, "/forms/models/{model}/alarms/{alarm}/acknowledge"): (TRAIN, NOBODY, {}),
    ("/models/{model}/alarms/{alarm}/undo", "/forms/models/{model}/alarms/{alarm}/undo"): (TRAIN, NOBODY, {}),
    ("/models/{model}/guard/rules/entropy", "/forms/models/{model}/guard/rules/entropy"): (TRAIN, NOBODY, {}),
    ("/models/{model}/guard/evaluations", "/forms/models/{model}/guard/evaluations"): (TRAIN, NOBODY, {}),
    ("/runs/{run}/cancel", "/forms/runs/{run}/cancel"): (TRAIN, NOBODY, {}),
    ("/runs/{run}/describe", "/forms/runs/{run}/describe"): (TRAIN, NOBODY, {"name": "named", "tags": "one"}),
    (None, "/forms/traces/{trace}/logprobs"): (TRAIN, NOBODY, {}),
    (None, "/forms/traces/{trace}/labels"): (TRAIN, NOBODY, {"add": "odd, to discuss"}),
    (None, "/forms/traces/{trace}/comments"): (TRAIN, NOBODY, {"text": "It guesses."}),
    (None, "/forms/traces/{trace}/comments/{comment}/delete"): (TRAIN, NOBODY, {}),
    (None, "/forms/playground"): (TRAIN, OF_ANY_TEAM, {}),
    (None, "/forms/playground/stream"): (TRAIN, OF_ANY_TEAM, {}),
    ("/keys/new", "/forms/keys"): (KEYS, BEYOND, {"name": "a key"}),
    ("/keys/{key}/rotate", "/forms/keys/{key}/rotate"): (KEYS, BEYOND, {"grace_s": "3600"}),
    ("/keys/{key}/revoke", "/forms/keys/{key}/revoke"): (KEYS, BEYOND, {}),
    ("/teams/{team}", "/forms/teams/{team}/quotas"): (ADMIN, BEYOND, {}),
    ("/teams/{team}/remove", "/forms/teams/{team}/remove"): (ADMIN, BEYOND, {"name": "another"}),
    ("/system/trainer/{trainer}/drain", "/forms/system/trainer/{trainer}/drain"): (ADMIN, BEYOND, {}),
    ("/system/sampler/{sampler}/undrain", "/forms/system/sampler/{sampler}/undrain"): (ADMIN, BEYOND, {}),
}
OPEN = {"/login", "/logout"}


@dataclass(frozen=True)
class Scene:
    """A team whose things are at stake, browsers that are signed in, by role, and an operator of another team; the
    tokens that the forms of each browser bear."""

    things: dict[str, str]
    browsers: dict[str, httpx.AsyncClient]
    tokens: dict[str, str]


@pytest.fixture(scope="module")
async def scene(origin: str, base: ModelRow, database: AsyncDatabase) -> AsyncIterator[Scene]:
    async with new_team(origin, database) as team, new_team(origin, database) as other, AsyncExitStack() as stack:
        keys = {role: await key_of(database, team, Grant(role, role)) for role in ROLES}
        keys["operator"] = await key_of(database, other, Grant("operator", "admin"))
        keys["other member"] = await key_of(database, other, Grant("other", "team_admin"))
        model = await team.fork(str(base.id))
        async with database.session() as session:
            name = f"drained-{uuid.uuid4().hex[:6]}"  # of its own: nobody else shall be served by these planes
            own = ModelRow(slug=name, name=name, weights="/nowhere")
            session.add(own)
            await session.flush()
            planes = {"host": name, "pid": 1, "heartbeat_at": own.created_at, "base_id": own.id}
            trainer, sampler = TrainerRow(losses={}, **planes), SamplerRow(url="http://x", backend="x", **planes)
            owner = await team_id_in(session, team)
            trace = trace_row(owner, model_id=uuid.UUID(model["id"]), reward=1.0)
            session.add_all([trainer, sampler, trace])
        things = {"trainer": str(trainer.id), "sampler": str(sampler.id), "trace": str(trace.id)}
        things |= {"model": model["id"], "team": str(owner)}
        browsers = {name: await stack.enter_async_context(signed_in(origin, key)) for name, key in keys.items()}
        tokens = {name: csrf_token((await browser.get("/")).text) for name, browser in browsers.items()}
        yield Scene(things, browsers, tokens)


async def fresh_things(scene: Scene, database: AsyncDatabase) -> dict[str, str]:
    """A key and an alarm that nobody has touched."""
    model_id = uuid.UUID(scene.things["model"])
    async with database.session() as session:
        grant = Grant("spare", "viewer")
        _, key = await issue(session, uuid.UUID(scene.things["team"]), grant, COMMAND_LINE)
        alarm = alarm_row(model_id)
        session.add(alarm)
        forked = await session.get_one(ModelRow, model_id)
        await session.execute(update(RunRow).where(RunRow.model_id == model_id).values(state="cancelled"))
        run = await add_run(session, forked, steps=1)
        trace_id = uuid.UUID(scene.things["trace"])
        comment = TraceCommentRow(team_id=forked.team_id, trace_id=trace_id, author="spare", text="Odd.")
        session.add(comment)
        checkpoint = await add_checkpoint(session, forked)
        await session.flush()
    made = {"alarm": alarm, "run": run, "comment": comment, "checkpoint": checkpoint, "key": key}
    return {**scene.things, **{name: str(row.id) for name, row in made.items()}}


def alarm_row(model_id: uuid.UUID) -> AlarmRow:
    known = {"evidence": {}, "outcome": {"pause": "training is paused"}, "state": "done", "actions": ["pause"]}
    return AlarmRow(model_id=model_id, rule="entropy", subject_id=uuid.uuid4(), step=1, message="It fell", **known)


def test_every_form_has_a_line_in_the_table(tmp_path):
    app = create_app(ServerSettings("postgresql://nowhere/nothing", f"file://{tmp_path}", "token"))
    forms = {
        route.path
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        and route.original_route.endpoint.__module__.startswith("server.pages.")
        and "POST" in (route.methods or ())
    }
    in_table = {re.sub(r"\{\w+\}|(?<=/rules/)\w+", "{}", form) for _, form in FORMS}
    in_table = {
        re.sub(r"^/forms/system/(trainer|sampler)/\{\}/\w+", "/forms/system/{}/{}/{}", form) for form in in_table
    }
    in_table = {re.sub(r"^/forms/runs/\{\}/(?!describe)\w+", "/forms/runs/{}/{}", form) for form in in_table}
    assert in_table | OPEN == {re.sub(r"\{\w+\}", "{}", form) for form in forms}


@pytest.mark.parametrize(("question", "form"), FORMS, ids=lambda part: str(part).replace("/", " ").strip())
async def test_a_form_does_what_its_role_may_and_nothing_for_others(scene: Scene, database, origin, question, form):
    allowed, allowed_beyond, fields = FORMS[question, form]
    spared = await fresh_things(scene, database)  # nobody who is refused changes them
    async with httpx.AsyncClient(base_url=origin, trust_env=False, verify=False) as nobody:
        reply = await nobody.post(form.format(**spared), data=fields)
        assert (reply.status_code, reply.headers["location"]) == (303, "/login")
    for who, browser in scene.browsers.items():
        may = who in (allowed if who in ROLES else allowed_beyond)
        refusals = {403} if who in ROLES or allowed_beyond else {403, 404}
        things = await fresh_things(scene, database) if may else spared
        if question is not None:
            asked = await browser.get(question.format(**things))
            if may or who in ROLES or question != "/keys/new":
                assert asked.status_code == 200 if may else asked.status_code in refusals | {404}, (who, asked.text)
        path = form.format(**things)
        if may:
            assert (await browser.post(path, data=fields)).status_code == 403, "a form without its token"
        reply = await browser.post(path, data={**fields, "csrf_token": scene.tokens[who]})
        if may:
            done = (303, 409, 422)  # a head that moved; a rollout without tokens
            assert reply.status_code in done, (who, reply.text)
        elif (who, form) != ("other member", "/forms/keys"):
            assert reply.status_code in refusals | {404}, (who, reply.text)
        if not may and question is not None and "{key}" in question:
            async with database.session() as session:
                assert (await session.get_one(ApiKeyRow, uuid.UUID(things["key"]))).revoked_at is None


SEEN = {
    "/models/{model}": (TRAIN, 'href="/models/{model}/pause"'),
    "/models/{model}?": (TRAIN, 'href="/models/{model}/delete"'),
    "/models/{model}?tab=guard": (TRAIN, "/guard/rules/entropy"),
    "/system": (ADMIN, "/drain"),
    "/keys": (KEYS, 'href="/keys/new"'),
}
"""What leads to a form: who sees it."""


@pytest.mark.parametrize("path", SEEN)
async def test_who_may_not_press_a_button_does_not_see_it(scene: Scene, path, database: AsyncDatabase):
    allowed, button = SEEN[path]
    async with database.session() as session:  # which another test may have paused
        model = await session.get_one(ModelRow, uuid.UUID(scene.things["model"]))
        model.paused_at = model.pause_reason = model.paused_by = None
    for role in ROLES:
        reply = await scene.browsers[role].get(path.format(**scene.things))
        assert (button.format(**scene.things) in reply.text) == (role in allowed), role


BUDGETS = [("/keys", 6, 140_000), ("/keys/new", 2, 8_000), ("/teams/{team}", 4, 8_000), ("/system", 10, 60_000),
           ("/system/trainer/{trainer}/drain", 6, 8_000)]  # fmt: skip


@pytest.mark.parametrize(("path", "most_queries", "most_bytes"), BUDGETS)
async def test_pages_of_operators_cost_few_queries_and_bytes(scene: Scene, path, most_queries, most_bytes):
    marker = uuid.uuid4().hex
    with counted_queries(marker) as queries:
        reply = await scene.browsers["operator"].get(path.format(**scene.things), headers={"X-Request-Id": marker})
    assert reply.status_code == 200
    assert 1 <= len(queries) <= most_queries, "\n".join(queries)
    assert len(reply.content) <= most_bytes


async def events_of(database: AsyncDatabase, subject_id: Any) -> list[str]:
    async with database.session() as session:
        query = select(EventRow.action).where(EventRow.subject_id == uuid.UUID(str(subject_id))).order_by(EventRow.id)
        return list(await session.scalars(query))


async def submit(browser: httpx.AsyncClient, question: str, **fields: str) -> httpx.Response:
    """Fill in the form on a page and send it, as a browser without scripts does."""
    page = (await browser.get(question)).text.partition("<main")[2]
    action = re.search(r'<form method="post" action="([^"]+)"', page)
    assert action, page
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    shown = dict(re.findall(r'<input id="\w+" name="(\w+)"[^>]*? value="([^"]*)"', page))
    ticked = dict.fromkeys(re.findall(r'type="checkbox" name="(\w+)" checked', page), "on")
    areas = {name: html.unescape(text) for name, text in re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)<', page)}
    return await browser.post(html.unescape(action[1]), data={**hidden, **shown, **ticked, **areas, **fields})


@pytest.mark.parametrize("counted", ["", "one", "7", "9" * 5000])
async def test_a_model_whose_checkpoints_were_miscounted_stays(counted, model, visitor):
    reply = await submit(visitor, f"/models/{model['id']}/delete", name=model["model_name"], checkpoints=counted)
    assert reply.status_code == 409
    assert (await visitor.get(f"/models/{model['id']}")).status_code == 200


async def test_nobody_is_asked_to_delete_what_cannot_be_deleted_now(model, visitor, database):
    question = f"/models/{model['id']}/delete"
    assert "Delete the model" in (await visitor.get(question)).text
    async with database.session() as session:
        await add_run(session, await session.get_one(ModelRow, uuid.UUID(model["id"])), steps=1)
    page = (await visitor.get(question)).text
    assert "It cannot be deleted now" in page
    assert "Delete the model" not in page


async def test_a_model_is_paused_with_a_reason_and_resumed(team, model, visitor, database):
    page = f"/models/{model['id']}"
    assert f'href="{page}/pause"' in (await visitor.get(page)).text
    empty = await submit(visitor, f"{page}/pause", reason=" ")
    assert empty.status_code == 422
    assert "Reason: must not be empty" in empty.text
    assert (await submit(visitor, f"{page}/pause", reason="looks <gamed>")).headers["location"] == page
    seen = (await visitor.get(page)).text
    assert "paused by the team" in seen
    assert "looks &lt;gamed&gt;. Sampling goes on." in seen
    refused = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    assert refused.json()["code"] == "paused"
    assert "looks &lt;gamed&gt;" in (await visitor.get(f"{page}/resume")).text
    assert (await submit(visitor, f"{page}/resume")).status_code == 303
    assert "paused by" not in (await visitor.get(page)).text
    assert (await events_of(database, model["id"]))[-2:] == ["pause", "resume"]


async def test_what_an_operator_paused_only_operators_resume(team, model, visitor, database, origin):
    page = f"/models/{model['id']}"
    async with signed_in(origin, await key_of(database, team, Grant("operator", "admin"))) as operator:
        assert (await submit(operator, f"{page}/pause", reason="power", operators_only="on")).status_code == 303
        seen = (await visitor.get(page)).text
        assert "Only an operator can resume it" in seen
        assert f'href="{page}/resume"' not in seen
        reply = await submit(visitor, f"{page}/resume")
        assert reply.status_code == 403
        assert "only an operator can resume it" in reply.text
        assert (await submit(operator, f"{page}/resume")).status_code == 303
    assert "paused by" not in (await visitor.get(page)).text


async def test_undoing_says_what_it_does_and_resumes(team, model, visitor, database):
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(model["id"]))
        row.paused_at, row.pause_reason, row.paused_by = row.created_at, "entropy: it fell", "guard"
        alarm = alarm_row(row.id)
        session.add(alarm)
    question = f"/models/{model['id']}/alarms/{alarm.id}/undo"
    assert question in (await visitor.get(f"/models/{model['id']}")).text
    assert "Training goes on" in (await visitor.get(question)).text
    assert (await submit(visitor, question)).status_code == 303
    assert "paused by" not in (await visitor.get(f"/models/{model['id']}")).text
    again = await submit(visitor, question)
    assert again.status_code == 409
    assert "This alarm was undone already" in again.text
    assert "undone" in (await visitor.get(f"/models/{model['id']}?tab=guard")).text


async def test_a_key_is_made_shown_once_rotated_and_revoked(team, model, database, origin):
    async with signed_in(origin, await key_of(database, team, Grant("boss", "team_admin"))) as browser:
        assert "admin" not in re.findall(r'<option value="(\w+)"', (await browser.get("/keys/new")).text)
        wrong = await submit(browser, "/keys/new", name="x", models="no such model", role="viewer")
        assert wrong.status_code == 404
        assert 'value="no such model"' in wrong.text
        assert (await submit(browser, "/keys/new", name="x", role="admin")).status_code == 403
        assert (await submit(browser, "/keys/new", name="", role="viewer")).status_code == 422

        sent = {"name": "evals", "role": "member", "scope_read": "on", "models": model["model_name"], "expires": "30"}
        made = await submit(browser, "/keys/new", **sent)
        assert made.status_code == 303
        cookie = made.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/keys/made", "Max-Age=60"} <= set(cookie.split("; "))
        shown = await browser.get(made.headers["location"])
        found = re.search(r'value="(hw_[^"]+)"', shown.text)
        assert found
        assert (await browser.get(made.headers["location"])).text.count(found[1]) == 0, "shown once"
        headers = {"Authorization": f"Bearer {found[1]}"}
        async with httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False) as client:
            told = (await client.get("/v2/auth/me")).json()
            assert (told["scopes"], told["model_ids"]) == (["read"], [model["id"]])

            key_id = made.headers["location"].partition("=")[2]
            assert (await submit(browser, f"/keys/{key_id}/rotate", grace_s="-1")).status_code == 422
            rotated = await submit(browser, f"/keys/{key_id}/rotate", grace_s="3600")
            assert re.search(r'value="hw_[^"]+"', (await browser.get(rotated.headers["location"])).text)
            assert (await submit(browser, f"/keys/{key_id}/rotate", grace_s="0")).status_code == 409
            assert (await client.get("/v2/auth/me")).status_code == 200
            assert (await submit(browser, f"/keys/{key_id}/revoke")).status_code == 303
            assert (await client.get("/v2/auth/me")).status_code == 401
    assert await events_of(database, key_id) == ["create_key", "revoke_key"]


async def test_another_key_in_the_cookie_is_not_shown_as_this_one(team, database, origin):
    async with signed_in(origin, await key_of(database, team, Grant("boss", "team_admin"))) as browser:
        made = await submit(browser, "/keys/new", name="one", role="viewer")
        browser.cookies.set("headway_new_key", "hw_planted", path="/keys/made")
        seen = await browser.get(made.headers["location"])
        assert "hw_planted" not in seen.text


async def test_quotas_are_set_where_the_form_changes_them(team, database, origin):
    owner = await team_id(database, team)
    async with database.session() as session:
        (await session.get_one(TeamRow, owner)).max_storage_bytes = 1000
    async with signed_in(origin, await key_of(database, team, Grant("operator", "admin"))) as browser:
        page = f"/teams/{owner}"
        done = await submit(browser, page, max_models="3", max_training_tokens_per_day="1,000,000")
        assert done.headers["location"] == page
        quotas = (await team.http.get("/v2/team")).json()["quotas"]
        expected = {"max_models": 3, "max_storage_bytes": 1000, "max_training_tokens_per_day": 1_000_000}
        assert quotas == {**expected, "max_concurrent_rollouts": None}
        await submit(browser, page, max_models="", max_storage_bytes="1.5 GiB")
        quotas = (await team.http.get("/v2/team")).json()["quotas"]
        assert (quotas["max_models"], quotas["max_storage_bytes"]) == (None, 3 * 2**29)
        for wrong in ("many", "-1", "1.5", "9" * 40, "0"):
            reply = await submit(browser, page, max_concurrent_rollouts=wrong)
            assert reply.status_code == 422, wrong
            assert f'value="{wrong}"' in reply.text
        for wrong in ("9" * 400 + ".5 GiB", "9" * 400 + " GiB", "1." + "5" * 400 + " GiB", "9" * 30 + ".5 TiB"):
            reply = await submit(browser, page, max_storage_bytes=wrong)
            assert (reply.status_code, 'id="problem">Max_storage_bytes' in reply.text) == (422, True), wrong
    assert "set_quotas" in await events_of(database, owner)


async def test_a_plane_is_drained_and_put_back(scene: Scene, database):
    operator = scene.browsers["operator"]
    async with database.session() as session:
        row = await session.get_one(SamplerRow, uuid.UUID(scene.things["sampler"]))
        row.drained_at = None
    question = f"/system/sampler/{row.id}/drain"
    assert question in (await operator.get("/system")).text
    assert question not in (await scene.browsers["team_admin"].get("/system")).text
    assert "No other sampler" in (await operator.get(question)).text
    assert (await submit(operator, question)).headers["location"] == "/system"
    assert f"/system/sampler/{row.id}/undrain" in (await operator.get("/system")).text
    assert (await submit(operator, f"/system/sampler/{row.id}/undrain")).status_code == 303
    assert (await events_of(database, row.id))[-2:] == ["drain_sampler", "undrain_sampler"]
    async with database.session() as session:
        stopped = await session.get_one(SamplerRow, row.id)
        stopped.stopped_at = stopped.started_at
    refused = await submit(operator, question)
    assert refused.status_code == 409
    assert "there is nothing to drain" in refused.text
    assert (await operator.get(f"/system/sampler/{uuid.uuid4()}/drain")).status_code == 404


async def test_a_rule_is_set_and_left_to_its_defaults_again(team: Team, model, visitor, database):
    tab = f"/models/{model['id']}?tab=guard"
    assert (await visitor.get(tab)).text.count(">default<") == 8
    question = f"/models/{model['id']}/guard/rules/kl_sampler"
    assert (await submit(visitor, question, p_bound="0.25", action_pause="on")).headers["location"] == tab
    rule = (await team.http.get(f"/v2/models/{model['id']}/guard")).json()["rules"]["kl_sampler"]
    assert (rule["parameters"]["bound"], rule["actions"], rule["enabled"]) == (0.25, ["pause"], True)
    page = (await visitor.get(tab)).text
    assert (page.count(">default<"), page.count(">set<")) == (7, 1)
    assert "instead of 0.5<" in page
    for wrong, said in [({"p_bound": "much"}, "bound must be a number"), ({"p_steps": "1.5"}, "a whole number"),
                        ({"action_webhook": "on"}, "no webhook_url"), ({"p_bound": "nan"}, "finite")]:  # fmt: skip
        reply = await submit(visitor, question, **wrong)
        assert reply.status_code == 422, wrong
        assert said in html.unescape(reply.text).lower(), wrong
    assert (await submit(visitor, question, reset="1")).status_code == 303
    assert (await visitor.get(tab)).text.count(">default<") == 8
    assert (await visitor.get(f"/models/{model['id']}/guard/rules/nothing")).status_code == 404
    assert (await events_of(database, model["id"])).count("set_guard") == 2


async def test_of_two_who_set_their_first_rules_at_once_none_is_lost(team: Team, model, visitor, database):
    model_id, rule = uuid.UUID(model["id"]), f"/models/{model['id']}/guard/rules/"
    async with database.session() as session:
        was = await read_set(session, model_id, lock=True)
        other = asyncio.create_task(submit(visitor, f"{rule}kl_sampler", p_bound="0.25"))
        async with asyncio.timeout(20):
            while not other.done() and not await waits_for_a_lock(database):  # noqa: ASYNC110 - the database has no event for it
                await asyncio.sleep(0.02)
        request = was.model_copy(update={"rules": {**was.rules, "entropy": RuleSettings(enabled=False)}})
        await write_guard(session, await session.get_one(ModelRow, model_id), request, COMMAND_LINE)
    assert (await other).status_code == 303
    rules = (await team.http.get(f"/v2/models/{model_id}/guard")).json()["rules"]
    assert (rules["kl_sampler"]["parameters"]["bound"], rules["entropy"]["enabled"]) == (0.25, False)


async def waits_for_a_lock(database) -> bool:
    query = (
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )
    async with database.session() as session:
        return bool(await session.scalar(text(query)))


async def test_who_may_not_see_the_webhook_leaves_it_as_it_is(team: Team, model, visitor, database, origin):
    question, tab = f"/models/{model['id']}/guard/evaluations", f"/models/{model['id']}?tab=guard"
    async with signed_in(origin, await key_of(database, team, Grant("boss", "team_admin"))) as boss:
        bad = await submit(boss, question, webhook_url="ftp://x")
        assert bad.status_code == 422
        assert 'value="ftp://x"' in bad.text
        assert (await submit(boss, question, webhook_url="http://127.0.0.1:9/secret")).status_code == 303
        assert "/secret" in (await boss.get(tab)).text
        assert "/secret" not in (await visitor.get(tab)).text
        assert (await submit(visitor, question, eval_jobs="probe *\r\nexam")).status_code == 303
        assert (await submit(visitor, f"/models/{model['id']}/guard/rules/entropy", action_webhook="on")).is_redirect
        assert "/secret" in (await boss.get(tab)).text
    guard = (await team.http.get(f"/v2/models/{model['id']}/guard")).json()
    assert guard["eval_jobs"] == ["probe *", "exam"]
    assert guard["rules"]["entropy"]["actions"] == ["webhook"]
