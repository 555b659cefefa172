"""The playground: one prompt to two models, whole and streamed, turn after turn, recorded where that is asked for."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.auth.issuing import Grant
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.contract.conftest import Team
from tests.contract.test_pages import csrf_token, key_of, signed_in
from tests.ports.scripted_backend import SamplerScript

FORM, STREAM = "/forms/playground", "/forms/playground/stream"


@pytest.fixture
async def browser(team: Team, origin: str) -> Any:
    async with signed_in(origin, team.key) as browser:
        yield browser


@pytest.fixture(autouse=True)
def answers(sampler_script: SamplerScript) -> Iterator[SamplerScript]:
    sampler_script.answer = "Forty two"
    sampler_script.requests.clear()
    sampler_script.renders.clear()
    yield sampler_script
    sampler_script.answer = "36"


def fields_of(page: str) -> dict[str, str]:
    """What the form of the page would send."""
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.partition('id="playground"')[2])
    return {name: html.unescape(value) for name, value in hidden}


async def test_two_models_answer_turn_after_turn_without_scripts(
    browser: httpx.AsyncClient, model: dict[str, Any], base: ModelRow, answers: SamplerScript
):
    page = (await browser.get("/playground")).text
    slug = model["model_name"]
    assert f'name="a" value="{slug}"' in page
    assert f'name="b" value="{base.slug}"' in page, "its base beside it"
    asked = {"a": slug, "b": base.slug, "temperature": "0.5", "max_tokens": "9", "seed": "7", "system": "Add."}
    reply = await browser.post(FORM, data={**fields_of(page), **asked, "prompt": "6*7?"})
    assert reply.status_code == 200, reply.text
    assert len(re.findall(">Forty two</pre>", reply.text)) == 2
    assert [(one.params.temperature, one.params.max_tokens, one.params.seed) for one in answers.requests] == [
        (0.5, 9, 7)
    ] * 2
    reply = await browser.post(FORM, data={**fields_of(reply.text), **asked, "prompt": "And <now>?"})
    assert len(re.findall("And &lt;now&gt;\\?</pre>", reply.text)) == 2
    chat = answers.requests[-1].chat
    assert chat is not None
    assert [(one["role"], one["content"]) for one in chat.messages] == [
        ("system", "Add."), ("user", "6*7?"), ("assistant", "Forty two"), ("user", "And <now>?"),
    ]  # fmt: skip


async def test_an_answer_is_streamed_and_recorded_where_that_is_asked_for(
    browser: httpx.AsyncClient, team: Team, model: dict[str, Any]
):
    token = csrf_token((await browser.get("/playground")).text)
    asked = {"csrf_token": token, "a": model["model_name"], "prompt": "6*7?", "side": "a"}
    reply = await browser.post(STREAM, data=asked)
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert "".join(line.get("text", "") for line in lines) == "Forty two"
    assert lines[-1] == {"end": "stop", "by": None, "num_tokens": 10, "trace": None}
    assert (await team.http.get("/v2/traces")).json()["items"] == []
    reply = await browser.post(STREAM, data={**asked, "record": "true"})
    trace = json.loads(reply.text.splitlines()[-1])["trace"]
    (kept,) = (await team.http.get("/v2/traces")).json()["items"]
    assert (kept["id"], kept["status"], kept["reward"], kept["job_id"]) == (trace, "completed", None, None)
    messages = (await team.http.get(f"/v2/traces/{trace}")).json()["turns"][0]["messages"]
    assert messages == [{"role": "user", "content": "6*7?"}]


@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [
        ({"prompt": ""}, 422, "prompt"),
        ({"temperature": "warm"}, 422, "temperature"),
        ({"top_p": "2"}, 422, "top_p"),
        ({"max_tokens": "0"}, 422, "max_tokens"),
        ({"state_a": "[{"}, 422, "begin a new one"),
        ({"state_a": '[{"role": "system", "content": "x"}]'}, 422, "begin a new one"),
        ({"a": "nobody"}, 404, "nobody"),
        ({"side": "c"}, 422, "side"),
        ({"side": "b"}, 422, "side"),
        ({"logit_bias": "1"}, 422, "logit_bias"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    browser: httpx.AsyncClient, model: dict[str, Any], wrong: dict[str, str], status: int, says: str
):
    token = csrf_token((await browser.get("/playground")).text)
    asked = {"csrf_token": token, "a": model["model_name"], "prompt": "6*7?", "side": "a", **wrong}
    reply = await browser.post(STREAM, data=asked)
    assert (reply.status_code, says in reply.json()["problem"]) == (status, True), reply.text
    if "side" in wrong:
        return
    page = await browser.post(FORM, data=asked)
    assert page.status_code in (status, 200), "of a side that nobody answers, the page says so"
    assert 'role="alert"' in page.text
    assert says in html.unescape(page.text)


async def test_one_side_s_trouble_is_not_the_other_s(
    browser: httpx.AsyncClient, model: dict[str, Any], answers: SamplerScript
):
    token = csrf_token((await browser.get("/playground")).text)
    asked = {
        "csrf_token": token,
        "a": model["model_name"],
        "b": f"{model['model_name']}:0007-00000000",
        "prompt": "6*7?",
    }
    reply = await browser.post(FORM, data=asked)
    assert reply.status_code == 200
    assert "Forty two" in reply.text
    assert "has no checkpoint" in reply.text
    fields = fields_of(reply.text)
    assert json.loads(fields["state_a"])[1]["content"] == "Forty two"
    assert fields["state_b"] == ""
    answers.refusal = "no room"
    try:
        reply = await browser.post(FORM, data={**fields, **asked, "b": ""})
    finally:
        answers.refusal = ""
    assert "no room" in reply.text.lower()
    assert ">6*7?</textarea>" in reply.text, "the prompt can be sent again"


async def test_a_key_that_may_not_sample_is_shown_no_form(team: Team, origin: str, database: AsyncDatabase):
    key = await key_of(database, team, Grant("viewer", "viewer"))
    async with signed_in(origin, key) as viewer:
        page = await viewer.get("/playground")
        assert "may not sample" in page.text
        token = csrf_token(page.text)
        for path in (FORM, STREAM):
            fields = {"csrf_token": token, "a": "x", "prompt": "x", "side": "a"}
            assert (await viewer.post(path, data=fields)).status_code == 403
