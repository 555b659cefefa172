"""Other vendors' models, asked by the vendors' own clients through this server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai.types import HttpOptions

from server.audit.recording import COMMAND_LINE
from server.auth.service import authenticate
from server.upstreams.agent_types import require_agent_type
from server.upstreams.catalog import add_upstream, remove_upstream
from server.upstreams.types import Upstream
from store.database import AsyncDatabase
from tests.contract.conftest import Team
from tests.contract.test_pages import HTML, signed_in
from tests.contract.upstreams import add_to_catalog
from tests.vendor import Vendor
from wire.errors import Conflict, InvalidRequest, ModelNotFound

CHAT = {"model": "a-gpt", "messages": [{"role": "user", "content": "6*7?"}], "max_tokens": 5}
MESSAGE: dict[str, Any] = {**CHAT, "model": "a-claude"}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "6*7?"}]}]}


@pytest.fixture(scope="module", autouse=True)
async def in_the_catalog(database: AsyncDatabase, vendor: Vendor, origin: str) -> None:
    for name, api in (("a-gpt", "openai"), ("a-claude", "anthropic"), ("a-gemini", "gemini")):
        await add_to_catalog(database, vendor, name, api)


@pytest.fixture(autouse=True)
def well(vendor: Vendor) -> Vendor:
    vendor.asked.clear()
    vendor.refuses.clear()
    vendor.text, vendor.hangs, vendor.breaks = "42", False, False
    return vendor


@pytest.fixture
def trace_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
async def gpt(origin: str, team: Team, trace_id: str) -> AsyncIterator[openai.AsyncOpenAI]:
    headers = {"Trace-Id": trace_id}
    async with openai.AsyncOpenAI(
        base_url=f"{origin}/v1", api_key=team.key, max_retries=0, default_headers=headers
    ) as client:
        yield client


@pytest.fixture
async def claude(origin: str, team: Team, trace_id: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    headers = {"Trace-Id": trace_id}
    async with anthropic.AsyncAnthropic(
        base_url=origin, api_key=team.key, max_retries=0, default_headers=headers
    ) as client:
        yield client


@pytest.fixture
def gemini(origin: str, team: Team, trace_id: str) -> genai.Client:
    options = HttpOptions(
        base_url=origin,
        api_version="v1beta",
        headers={"Trace-Id": trace_id},
        async_client_args={"transport": httpx.AsyncHTTPTransport()},
    )
    return genai.Client(api_key=team.key, http_options=options)


async def recorded(team: Team, trace_id: str) -> dict[str, Any]:
    """The rollout as exports have it: with its turns."""
    reply = await team.http.get("/v2/traces/export", params={"format": "headway"})
    rows = [row for row in map(_json, reply.text.splitlines()) if uuid.UUID(row["trace_id"]).hex == trace_id]
    assert len(rows) == 1, reply.text
    return rows[0]


def _json(line: str) -> dict[str, Any]:
    return httpx.Response(200, text=line).json()


async def test_a_chat_is_the_vendor_s_under_its_own_name_and_key_and_is_recorded(gpt, team, vendor, trace_id):
    answer = await gpt.chat.completions.create(**CHAT)
    assert (answer.choices[0].message.content, answer.model) == ("42", "vendor-openai")
    assert answer.usage.total_tokens == 9
    [asked] = vendor.asked
    assert asked.headers["authorization"] == f"Bearer {vendor.key}"
    assert team.key not in str(asked.headers)
    assert asked.body == {**CHAT, "model": "vendor-openai"}
    [turn] = (await recorded(team, trace_id))["turns"]
    request = _json(turn["request"])
    assert (request["messages"], request["reply"]["content"]) == (CHAT["messages"], "42")
    sampling = _json(turn["sampling"])
    assert (sampling["model"], sampling["usage"]["total_tokens"], sampling["max_tokens"]) == ("vendor-openai", 9, 5)
    assert turn["output_token_ids"] == []


async def test_streams_of_all_vendors_are_passed_on_and_recorded_whole(gpt, claude, gemini, team, vendor, trace_id):
    vendor.text = "forty-two"
    chunks = [chunk async for chunk in await gpt.chat.completions.create(**CHAT, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "forty-two"
    async with claude.messages.stream(**MESSAGE) as stream:
        assert "".join([text async for text in stream.text_stream]) == "forty-two"
    streamed = await gemini.aio.models.generate_content_stream(model="a-gemini", contents="6*7?")
    assert "".join([chunk.text or "" async for chunk in streamed]) == "forty-two"
    turns = (await recorded(team, trace_id))["turns"]
    assert [_json(turn["request"])["reply"]["content"] for turn in turns] == ["forty-two"] * 3
    assert [turn["finish_reason"] for turn in turns] == ["stop", "end_turn", "STOP"]
    assert all(_json(turn["sampling"])["usage"] for turn in turns)


async def test_messages_contents_and_responses_answer_their_clients_and_are_recorded(
    gpt, claude, gemini, team, vendor, trace_id
):
    message = await claude.beta.messages.create(**MESSAGE, system="Be brief.", betas=["a-beta"])
    assert message.content[0].text == "42"
    content = await gemini.aio.models.generate_content(model="a-gemini", contents="6*7?")
    assert content.text == "42"
    assert (await claude.messages.count_tokens(model="a-claude", messages=MESSAGE["messages"])).input_tokens == 7
    assert vendor.asked.pop().path == "/v1/messages/count_tokens"
    response = await gpt.responses.create(model="a-gpt", instructions="STOP or CONTINUE", input="Agent message: 42")
    assert response.output_text == "42"
    paths = [asked.path.partition("?")[0] for asked in vendor.asked]
    assert paths == ["/v1/messages", "/v1beta/models/vendor-gemini:generateContent", "/v1/responses"]
    assert vendor.asked[0].headers["anthropic-beta"] == "a-beta"
    assert vendor.asked[1].headers["x-goog-api-key"] == vendor.key
    turns = (await recorded(team, trace_id))["turns"]
    asked = [_json(turn["request"])["messages"] for turn in turns]
    assert [messages[0]["role"] for messages in asked] == ["system", "user", "system"]
    assert {_json(turn["sampling"])["upstream"] for turn in turns} == {"openai", "anthropic", "gemini"}


async def test_pictures_go_to_the_vendor_as_they_are(gpt, claude, vendor):
    """Also what is no picture: that is the vendor's to say."""
    url = "data:image/png;base64,AAAA"
    shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]}
    await gpt.chat.completions.create(**{**CHAT, "messages": [shown]})
    item = {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "high"}]}
    await gpt.responses.create(model="a-gpt", input=[item])
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    block = {"role": "user", "content": [{"type": "image", "source": source}]}
    await claude.messages.create(**{**MESSAGE, "messages": [block]})
    chat, response, message = (asked.body for asked in vendor.asked)
    assert (chat["messages"], response["input"], message["messages"]) == ([shown], [item], [block])


async def test_pages_show_the_conversation_once_and_the_model_as_what_it_is(gpt, team, origin, trace_id):
    await gpt.chat.completions.create(**CHAT)
    model = (await team.http.get("/v2/models/resolve", params={"model": "a-gpt"})).json()
    async with signed_in(origin, team.key) as visitor:
        rollout = (await visitor.get(f"/trace/{trace_id}", headers=HTML)).text
        assert (rollout.count("6*7?"), rollout.count(">42<")) == (1, 1)
        assert "another vendor" in (await visitor.get(f"/models/{model['id']}", headers=HTML)).text
        assert f"/models/{model['id']}" in (await visitor.get("/", headers=HTML)).text
        for action in ("pause", "resume"):
            assert (await visitor.get(f"/models/{model['id']}/{action}", headers=HTML)).status_code == 403


async def test_nothing_is_trained_on_a_vendor_s_answers(gpt, team, base, trace_id):
    await gpt.chat.completions.create(**CHAT)
    await team.http.post(f"/v2/trace/{trace_id}/exit", json={"status": "completed", "reward": 1.0})
    model = await team.fork(str(base.id))
    reply = await team.train(model["id"], "forward-backward", {"inputs": [trace_id]})
    assert reply.status_code == 422
    assert "another vendor's model" in reply.json()["detail"]


async def test_a_judge_s_answers_are_no_turns_of_the_rollout_that_asked_it(gpt, team, model, trace_id):
    policy = {**CHAT, "model": model["model_name"]}
    await gpt.responses.create(model="a-gpt", input="Agent message: ?")
    await gpt.chat.completions.create(**policy)
    await gpt.responses.create(model="a-gpt", input="Agent message: 42")
    await team.http.post(f"/v2/trace/{trace_id}/exit", json={"status": "completed", "reward": 1.0})
    reply = await team.train(model["id"], "forward-backward", {"inputs": [trace_id]})
    assert (reply.status_code, reply.json()["num_datums"]) == (200, 1), reply.text
    assert [turn["model_id"] for turn in (await recorded(team, trace_id))["turns"]] == [model["id"]]
    listed = (await team.http.get("/v2/traces", params={"model_id": model["id"]})).json()["items"]
    assert [uuid.UUID(row["id"]).hex for row in listed] == [trace_id]


async def test_what_a_vendor_refuses_comes_through_in_its_own_words(gpt, claude, gemini, vendor):
    sentence = {"message": "no such size", "type": "invalid_request_error", "param": "size", "code": "bad_size"}
    vendor.refuses = [(400, {"error": sentence}, {"Content-Type": "application/json"})]
    with pytest.raises(openai.BadRequestError) as refused:
        await gpt.chat.completions.create(**CHAT)
    assert (refused.value.code, refused.value.param) == ("bad_size", "size")
    vendor.refuses = [(529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, BUSY)]
    with pytest.raises(anthropic.APIStatusError) as busy:
        await claude.messages.create(**MESSAGE)
    assert (busy.value.status_code, busy.value.response.headers["retry-after"]) == (529, "7")
    vendor.refuses = [(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})] * 5
    with pytest.raises(openai.InternalServerError, match="bad gateway"):
        await gpt.chat.completions.create(**CHAT)
    with pytest.raises(genai.errors.ServerError, match="bad gateway"):
        await gemini.aio.models.generate_content(model="a-gemini", contents="6*7?")


BUSY = {"Content-Type": "application/json", "Retry-After": "7"}


async def test_one_call_of_a_client_is_one_call_of_the_vendor(gpt, vendor):
    vendor.refuses = [(500, {"error": {"message": "broken"}}, {"Content-Type": "application/json"})] * 3
    with pytest.raises(openai.InternalServerError):
        await gpt.chat.completions.create(**CHAT)
    assert len(vendor.asked) == 1


async def test_a_key_that_the_vendor_refuses_is_the_operator_s_business_and_is_shown_to_nobody(gpt, vendor):
    vendor.key_file.write_text("outdated-secret")
    try:
        with pytest.raises(openai.PermissionDeniedError, match="an operator can replace it") as refused:
            await gpt.chat.completions.create(**CHAT)
        assert "outdated-secret" not in str(refused.value)
        vendor.key_file.unlink()
        with pytest.raises(openai.InternalServerError, match="cannot be read on this server") as missing:
            await gpt.chat.completions.create(**CHAT)
        assert str(vendor.key_file) not in str(missing.value)
        vendor.refuses = [(400, {"error": {"message": f"odd: {vendor.key}"}}, {"Content-Type": "application/json"})]
        vendor.key_file.write_text(vendor.key)
        with pytest.raises(openai.BadRequestError) as odd:
            await gpt.chat.completions.create(**CHAT)
        assert vendor.key not in str(odd.value)
    finally:
        vendor.key_file.write_text(vendor.key)


async def _all_of(answer: Any) -> None:
    async for _ in await answer:
        pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_disconnects_the_vendor(gpt, vendor, stream):
    vendor.hangs = True
    with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
        await _all_of(gpt.chat.completions.create(**CHAT, stream=stream, timeout=0.5))
    await gpt.close()
    assert await asyncio.to_thread(vendor.asked[0].is_gone.wait, 10)


async def test_a_stream_that_breaks_ends_with_an_error_in_the_protocol_s_shape(gpt, claude, vendor):
    vendor.breaks = True
    with pytest.raises(openai.APIError, match="broke off"):
        [chunk async for chunk in await gpt.chat.completions.create(**CHAT, stream=True)]
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        async with claude.messages.stream(**MESSAGE) as stream:
            [text async for text in stream.text_stream]


@pytest.mark.parametrize(
    "ours",
    [{"return_token_ids": True}, {"checkpoint": "0001"}, {"prompt_token_ids": [1]}, {"continuation_from": 1}],
)
async def test_what_only_this_server_does_is_refused_by_name(gpt, vendor, ours):
    with pytest.raises(openai.UnprocessableEntityError, match=next(iter(ours))):
        await gpt.chat.completions.create(**CHAT, extra_body=ours)
    assert vendor.asked == []
    await gpt.chat.completions.create(**CHAT, extra_body={"return_token_ids": False, "made_up_by_the_vendor": 1})
    assert vendor.asked[0].body == {**CHAT, "model": "vendor-openai", "made_up_by_the_vendor": 1}


async def test_a_model_is_asked_in_its_own_api_alone(gpt, claude, team, model, vendor):
    with pytest.raises(openai.NotFoundError, match="'anthropic'"):
        await gpt.chat.completions.create(**MESSAGE)
    with pytest.raises(anthropic.NotFoundError, match="'openai'"):
        await claude.messages.create(**CHAT)
    with pytest.raises(anthropic.NotFoundError, match="headway upstreams add"):
        await claude.messages.create(**{**MESSAGE, "model": "claude-nobody-added"})
    with pytest.raises(openai.NotFoundError, match="headway upstreams add"):
        await gpt.responses.create(model="gpt-nobody-added", input="x")
    assert (await gpt.responses.create(model=model["model_name"], input="x")).model == model["model_name"]
    with pytest.raises(openai.UnprocessableEntityError, match="another vendor's model"):
        await gpt.completions.create(model="a-gpt", prompt="6*7=")
    with pytest.raises(openai.UnprocessableEntityError, match="background"):
        await gpt.responses.create(model="a-gpt", input="x", background=True)
    reply = await team.http.post("/v1beta/models/a-gemini:streamGenerateContent", json=CONTENTS)
    assert (reply.status_code, reply.json()["error"]["status"]) == (422, "INVALID_ARGUMENT")
    assert vendor.asked == []


async def test_the_catalog_says_what_it_is_and_lists_of_bases_leave_it_out(team, database):
    rows = {row["model_name"]: row for row in (await team.http.get("/v2/models")).json()["items"]}
    shown = {name: (rows[name]["sdk_agent_type"], rows[name]["provider"]["name"]) for name in rows if name[:2] == "a-"}
    assert shown["a-claude"] == ("claude", "anthropic")
    assert shown["a-gpt"] == ("openai_compatible", "openai")
    assert shown["a-gemini"] == ("gemini", "gemini")
    assert rows["a-gpt"]["is_trainable"] is False
    assert rows["a-gpt"]["upstream"] == {"api": "openai", "model": "vendor-openai"}
    assert "key" not in str(rows["a-gpt"])
    listed = {row["id"]: row["owned_by"] for row in (await team.http.get("/v1/models")).json()["data"]}
    assert listed["a-claude"] == "anthropic"
    capabilities = (await team.http.get("/api/v1/get_server_capabilities")).json()["supported_models"]
    assert not [row for row in capabilities if row["model_name"].startswith("a-")]
    reply = await team.http.get("/v2/models/resolve", params={"model": "a-gpt"})
    assert reply.json()["model_name"] == "a-gpt"


async def test_it_is_neither_forked_nor_trained_nor_given_a_head_nor_a_base_of_runs(team):
    model = (await team.http.get("/v2/models/resolve", params={"model": "a-gpt"})).json()
    tries = [
        await team.http.post("/v2/models/fork", json={"source_model_id": model["id"], "name": "mine"}),
        await team.train(model["id"], "forward-backward", {"inputs": [uuid.uuid4().hex]}),
        await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": None}),
    ]
    assert [(reply.status_code, "another vendor's model" in reply.text) for reply in tries] == [(403, True)] * 3
    session = (await team.http.post("/api/v1/create_session", json={})).json()["session_id"]
    for call in ("create_model", "create_sampling_session"):
        body = {"session_id": session, "model_seq_id": 0, "sampling_session_seq_id": 0, "base_model": "a-gpt"}
        reply = await team.http.post(f"/api/v1/{call}", json={k: v for k, v in body.items() if _of(call, k)})
        assert 400 <= reply.status_code < 500, reply.text


def _of(call: str, name: str) -> bool:
    return not (name == "model_seq_id" and call != "create_model") and not (
        name == "sampling_session_seq_id" and call == "create_model"
    )


async def test_agents_are_run_whose_models_answer_in_their_api(team, model, database):
    async with database.session() as session:
        caller = await authenticate(session, team.key)
        for agent, asked in (("claude", "a-claude"), ("openai", "a-gpt"), ("gemini", "a-gemini")):
            assert (await require_agent_type(session, caller, agent, asked)).slug == asked
        for agent in ("claude", "openai"):
            assert (await require_agent_type(session, caller, agent, model["model_name"])).slug == model["model_name"]
        for asked in (model["model_name"], "a-gpt"):
            assert (await require_agent_type(session, caller, "openai_compatible", asked)).slug == asked
        for agent, asked, why in (
            ("claude", "claude-nobody-added", "headway upstreams add"),
            ("gemini", model["model_name"], "openai_compatible"),
            ("openai_compatible", "a-claude", "'claude'"),
            ("codex_cli", "a-gpt", "a program of its own"),
            ("robot", "a-gpt", "there is no agent type"),
        ):
            with pytest.raises(InvalidRequest, match=why):
                await require_agent_type(session, caller, agent, asked)
        with pytest.raises(ModelNotFound):
            await require_agent_type(session, caller, "openai_compatible", "nobody")


async def test_operators_add_change_and_remove_it(team, base, database, vendor):
    upstream = Upstream(api="openai", base_url=vendor.base_url("openai"), model="m-1", key_file=str(vendor.key_file))
    async with database.session() as session:
        first = await add_upstream(session, "b-gpt", upstream, COMMAND_LINE)
    async with database.session() as session:
        changed = await add_upstream(session, "B-gpt", upstream.model_copy(update={"model": "m-2"}), COMMAND_LINE)
    assert (changed.id, changed.name) == (first.id, "b-gpt")
    reply = await team.http.post("/v1/chat/completions", json={**CHAT, "model": "b-gpt"})
    assert reply.json()["model"] == "m-2"
    for name, error in (("claude", InvalidRequest), (base.slug.split("/")[1] + "/", InvalidRequest)):
        with pytest.raises(error):
            async with database.session() as session:
                await add_upstream(session, name, upstream, COMMAND_LINE)
    async with database.session() as session:
        await remove_upstream(session, "b-gpt", COMMAND_LINE)
    reply = await team.http.post("/v1/chat/completions", json={**CHAT, "model": "b-gpt"})
    assert reply.status_code == 404
    with pytest.raises(Conflict):
        async with database.session() as session:
            await add_upstream(session, await _a_base(session), upstream, COMMAND_LINE)


async def _a_base(session: Any) -> str:
    from store.catalog import ensure_base

    await session.run_sync(lambda sync: ensure_base(sync, "a-base-of-ours", "org/name"))
    return "a-base-of-ours"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("api", "mistral"),
        ("base_url", "file:///etc/passwd"),
        ("base_url", "https://user:secret@host/v1"),
        ("base_url", "https://host/v1?key=1"),
        ("model", ""),
        ("model", "../../x y"),
        ("key_file", "relative/path"),
    ],
)
def test_an_upstream_that_makes_no_sense_is_refused(field, value):
    good = {"api": "openai", "base_url": "https://host/v1", "model": "m", "key_file": "/key"}
    Upstream.model_validate(good)
    with pytest.raises(ValueError, match=field):
        Upstream.model_validate({**good, field: value})


async def test_a_model_of_this_server_may_be_the_judge_under_the_name_that_the_sdk_asks_for(
    gpt, team, base, database, origin, tmp_path
):
    """`hud eval --full` asks for `gpt-5`: an upstream of that name is an alias of a model of this server."""
    (tmp_path / "key").write_text(team.key)
    judge = {"api": "openai", "base_url": f"{origin}/v1", "model": base.slug, "key_file": str(tmp_path / "key")}
    async with database.session() as session:
        await add_upstream(session, "gpt-5", Upstream.model_validate(judge), COMMAND_LINE)
    try:
        response = await gpt.responses.create(
            model="gpt-5",
            instructions="Respond ONLY with STOP or CONTINUE.",
            input=[{"role": "user", "content": "Agent message: 12*3=?"}],
            reasoning={"effort": "low"},
            max_output_tokens=256,
        )
        assert response.output_text
    finally:
        async with database.session() as session:
            await remove_upstream(session, "gpt-5", COMMAND_LINE)
