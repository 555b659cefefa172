"""Chat completions and completions, streamed and not, as OpenAI's client and the training client read them."""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import openai
import pytest
from sqlalchemy import delete, func, update

from server.app import create_app
from server.auth.service import revoke_key
from server.process.settings import GatewayLimits, ServerSettings
from store.tables import CheckpointRow, SamplerRow
from tests.contract.conftest import CONTEXT, new_team, serving
from tests.contract.stand_ins import register_sampler
from tests.contract.test_models import no_samplers, unloaded_checkpoint
from tests.ports.scripted_backend import END

JSON = {"Content-Type": "application/json"}
USER = {"role": "user", "content": [{"type": "text", "text": "12*3?"}]}
RENDERED = "<user>12*3?<assistant>"
DEEP = functools.reduce(lambda inner, _: [inner], range(500), [])
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def _calling(arguments):
    function = {"name": "add", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def _tool(**changes):
    return {**TOOL, "function": {**TOOL["function"], **changes}}


def chat(model, **changes):
    return {"model": model["model_name"], "messages": [USER], **changes}


async def test_a_training_rollout_gets_ids_and_logprobs_of_equal_length(team, model):
    reply = await team.http.post("/chat/completions", json=chat(model, logprobs=True, return_token_ids=True))
    assert reply.status_code == 200, reply.text
    body = reply.json()
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "36"}
    assert choice["finish_reason"] == "stop"
    assert choice["prompt_token_ids"] == body["prompt_token_ids"] == list(map(ord, RENDERED))
    assert choice["token_ids"] == [ord("3"), ord("6"), END]
    assert [entry["logprob"] for entry in choice["logprobs"]["content"]] == [-0.5] * 3
    assert choice["logprobs"]["content"][0] == {"token": "3", "logprob": -0.5, "bytes": [51], "top_logprobs": []}
    assert body["object"] == "chat.completion"
    assert body["usage"] == {
        "prompt_tokens": len(RENDERED),
        "completion_tokens": 3,
        "total_tokens": len(RENDERED) + 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_a_plain_chat_carries_no_ids(team, model):
    reply = (await team.http.post("/v1/chat/completions", json=chat(model))).json()
    assert set(reply) == {"id", "object", "created", "model", "choices", "usage", "checkpoint"}
    assert set(reply["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}


async def test_the_reply_names_the_checkpoint_that_answered(team, model, sampler_script):
    reply = await team.http.post("/chat/completions", json=chat(model))
    assert reply.json()["checkpoint"] is None
    assert reply.headers["x-headway-checkpoint"] == "base"
    step = await team.step(model["id"])
    reply = await team.http.post("/chat/completions", json=chat(model))
    checkpoint = reply.json()["checkpoint"]
    assert checkpoint["id"] == step["checkpoint_id"]
    assert checkpoint["step"] == 1
    assert reply.headers["x-headway-checkpoint"] == checkpoint["name"]
    assert len({request.adapter for request in sampler_script.requests}) == 2


async def test_a_checkpoint_is_pinned_by_id_name_or_path(team, model):
    first = (await team.step(model["id"]))["checkpoint_id"]
    await team.step(model["id"])
    node = (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json()[0]
    for pinned in (first, node["name"], node["checkpoint_name"]):
        reply = (await team.http.post("/chat/completions", json=chat(model, checkpoint=pinned))).json()
        assert reply["checkpoint"]["id"] == first
    named = f"{model['model_name']}:{node['name']}"
    reply = (await team.http.post("/v1/chat/completions", json={**chat(model), "model": named})).json()
    assert reply["checkpoint"]["id"] == first
    assert (await team.http.get(f"/v1/models/{named}")).json()["id"] == named
    other = f"{model['model_name']}:0009-00000000"
    assert (await team.http.get(f"/v1/models/{other}")).status_code == 404
    assert (await team.http.post("/v1/chat/completions", json={**chat(model), "model": other})).status_code == 404
    unknown = await team.http.post("/chat/completions", json=chat(model, checkpoint="nothing"))
    assert unknown.status_code == 404


async def test_a_model_is_sampled_by_id_and_whatever_the_case(team, model, base):
    for name in (model["id"], model["model_name"].upper(), "tiny-base"):
        reply = await team.http.post("/chat/completions", json={"model": name, "messages": [USER]})
        assert reply.status_code == 200, reply.text


async def test_several_choices_have_seeds_of_their_own(team, model, sampler_script):
    reply = await team.http.post("/chat/completions", json=chat(model, n=3, seed=7, temperature=0.5, top_p=0.9))
    assert [choice["index"] for choice in reply.json()["choices"]] == [0, 1, 2]
    assert sorted(request.params.seed for request in sampler_script.requests) == [7, 8, 9]
    assert {(r.params.temperature, r.params.top_p) for r in sampler_script.requests} == {(0.5, 0.9)}
    assert reply.json()["usage"]["completion_tokens"] == 9


async def test_stop_strings_and_limits_reach_the_sampler(team, model, sampler_script):
    body = chat(model, stop="\n", max_completion_tokens=1, top_k=5, logprobs=True, top_logprobs=2)
    reply = (await team.http.post("/chat/completions", json=body)).json()
    params = sampler_script.requests[0].params
    assert (params.stop, params.max_tokens, params.top_k, params.top_logprobs) == (["\n"], 1, 5, 2)
    assert reply["choices"][0]["finish_reason"] == "length"
    assert [top["token"] for top in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]] == ["A", "B"]


async def test_one_answer_is_one_call_of_the_sampler_and_several_share_a_rendering(team, model, sampler_script):
    await team.http.post("/chat/completions", json=chat(model))
    assert [sent.chat == sampler_script.renders[0] for sent in sampler_script.requests] == [True]
    reply = await team.http.post("/chat/completions", json=chat(model, n=3, return_token_ids=True))
    assert len(sampler_script.renders) == 2
    assert [sent.chat for sent in sampler_script.requests[1:]] == [None] * 3
    assert [choice["prompt_token_ids"] for choice in reply.json()["choices"]] == [list(map(ord, RENDERED))] * 3


async def test_tool_calls_are_parsed(team, model, sampler_script):
    sampler_script.answer = 'CALL add {"a": 1}'
    choice = (await team.http.post("/chat/completions", json=chat(model, tools=[TOOL]))).json()["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None


async def test_tool_choice_none_keeps_the_tools_from_the_prompt(team, model, sampler_script):
    await team.http.post("/chat/completions", json=chat(model, tools=[TOOL], tool_choice="none"))
    assert sampler_script.renders[0].tools == []
    await team.http.post("/chat/completions", json=chat(model, tools=[TOOL], tool_choice="auto"))
    assert sampler_script.renders[1].tools == [TOOL]


async def test_reasoning_is_told_apart(team, model, sampler_script):
    sampler_script.answer = "<think>hm</think>36"
    message = (await team.http.post("/chat/completions", json=chat(model))).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "36", "reasoning_content": "hm"}


@pytest.mark.parametrize("with_system", [False, True])
async def test_a_later_turn_continues_the_very_ids(with_system, team, model, sampler_script):
    system = [{"role": "system", "content": "be brief"}] if with_system else []
    messages = [*system, USER]
    first = (
        await team.http.post("/chat/completions", json=chat(model, messages=messages, return_token_ids=True))
    ).json()
    so_far = first["choices"][0]["prompt_token_ids"] + first["choices"][0]["token_ids"]
    messages += [first["choices"][0]["message"], {"role": "tool", "content": "ok"}]
    body = chat(model, messages=messages, return_token_ids=True, prompt_token_ids=so_far, continuation_from=2)
    second = (await team.http.post("/chat/completions", json=body)).json()
    assert second["choices"][0]["prompt_token_ids"] == so_far + list(map(ord, "<tool>ok<assistant>"))
    assert sampler_script.renders[1].continued_messages == 2 + with_system


REFUSED = {
    "boundary inside": (
        {"prompt_token_ids": [1], "continuation_from": 1},
        "continuation_from is 1, but the message before that boundary is not an assistant's",
    ),
    "boundary beyond": ({"prompt_token_ids": [1], "continuation_from": 9}, "continuation_from is 9"),
    "ids without boundary": ({"prompt_token_ids": [1]}, "belong together"),
    "empty ids": ({"prompt_token_ids": [], "continuation_from": 1}, "prompt_token_ids is empty"),
    "boundary without ids": ({"continuation_from": 1}, "belong together"),
    "huge ids": ({"prompt_token_ids": [2**70], "continuation_from": 1}, "prompt_token_ids[0]"),
    "forced tool": ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice is 'none'"),
    "named tool": ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice is 'none'"),
    "odd tool": ({"tools": [{"type": "web_search"}]}, "tools[0] must be of type 'function'"),
    "parameters": ({"tools": [_tool(parameters="x")]}, "tools[0].function.parameters must be an object"),
    "strict": ({"tools": [_tool(strict=1)]}, "tools[0].function.strict must be true or false"),
    "description": ({"tools": [_tool(description=[])]}, "tools[0].function.description must be a text"),
    "name": ({"tools": [_tool(name=5)]}, "tools[0] must be of type 'function'"),
    "NaN": ({"metadata": {"a": float("nan")}}, "metadata holds a number that is not finite"),
    "NaN in a tool": ({"tools": [_tool(parameters={"minimum": float("inf")})]}, "tools holds a number"),
    "json": ({"response_format": {"type": "xml"}}, "response_format.type is 'xml'"),
    "penalty": ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
    "presence": ({"presence_penalty": 1}, "presence_penalty is not supported"),
    "bias": ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
    "repetition": ({"repetition_penalty": 1.1}, "repetition_penalty is not supported"),
    "n zero": ({"n": 0}, "n: should be greater than or equal to 1"),
    "n huge": ({"n": 10**30}, "n: "),
    "n too many": ({"n": 129}, "n: should be less than or equal to 128"),
    "no tokens": ({"max_tokens": 0}, "should be greater than or equal to 1"),
    "temperature": ({"temperature": -1}, "temperature: "),
    "top_p zero": ({"top_p": 0}, "top_p: "),
    "seed huge": ({"seed": 2**80}, "seed: "),
    "empty stop": ({"stop": ""}, "stop"),
    "many stops": ({"stop": ["x"] * 17}, "stop"),
    "min over max": ({"min_tokens": 5, "max_tokens": 2}, "min_tokens is 5"),
    "min over the context": ({"min_tokens": CONTEXT}, f"min_tokens is {CONTEXT}, more than the {CONTEXT - 22} tokens"),
    "half a surrogate pair": ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a surrogate pair"),
    "half a surrogate pair in a name": (
        {"messages": [{"role": "user", "content": "hi", "name": "\udfff"}]},
        "half a surrogate pair",
    ),
    "deep message": ({"messages": [_calling(DEEP)]}, "nested too deeply"),
    "deep tool": ({"tools": [_tool(parameters=DEEP)]}, "nested too deeply"),
    "deep template argument": ({"chat_template_kwargs": {"x": DEEP}}, "nested too deeply"),
    "a picture for a base that reads none": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "messages[0].content[0] is a picture, and 'org/Tiny-Base', the base of",
    ),
    "no messages": ({"messages": []}, "messages: list should have at least 1 item"),
    "odd role": ({"messages": [{"role": "pirate", "content": "arr"}]}, "messages[0].role is 'pirate'"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
    "odd content": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content must be"),
    "outside the vocabulary": ({"messages": [{"role": "user", "content": "ä"}]}, "outside the vocabulary"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_would_not_be_served_as_asked_is_refused_by_name(
    case, standing_team, standing_model, sampler_script
):
    changes, sentence = REFUSED[case]
    content = json.dumps(chat(standing_model, **changes))
    reply = await standing_team.http.post("/chat/completions", content=content, headers=JSON)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]
    assert reply.json()["error"]["message"] == reply.json()["detail"]
    assert sampler_script.requests == []


async def test_a_prompt_that_fills_the_context_is_refused_as_harnesses_know_it(
    standing_team, standing_model, sampler_script
):
    for path, prompt in (
        ("/chat/completions", {"messages": [{"role": "user", "content": "x" * CONTEXT}]}),
        ("/completions", {"prompt": "x" * CONTEXT}),
    ):
        body = {"model": standing_model["model_name"], **prompt}
        for stream in (False, True):
            reply = await standing_team.http.post(path, json={**body, "stream": stream})
            assert reply.status_code == 400, reply.text
            error = reply.json()["error"]
            assert error["code"] == "context_length_exceeded"
            assert f"maximum context length is {CONTEXT} tokens" in error["message"]
    assert sampler_script.requests == []


async def test_samplers_learn_whose_work_it_is_so_that_teams_and_calls_can_take_turns(
    standing_team, standing_model, sampler_script
):
    for _ in range(2):
        reply = await standing_team.http.post("/chat/completions", json=chat(standing_model, n=2))
        assert reply.status_code == 200, reply.text
    body = {"model": standing_model["model_name"], "prompt": "ab"}
    assert (await standing_team.http.post("/completions", json=body)).status_code == 200
    asked = sampler_script.requests
    teams, calls = [{request.team for request in asked}, [request.call for request in asked]]
    assert len(teams) == 1
    assert "" not in teams
    assert calls[0] == calls[1] != calls[2] == calls[3] != calls[4]
    assert [(render.team, render.call) for render in sampler_script.renders] == [(*teams, calls[0]), (*teams, calls[2])]


MALFORMED = [
    '{"model": "m", "messages": [',
    "",
    "[]",
    '{"temperature": NaN}',
    '{"model": 1e999}',
    "[" * 20_000 + "]" * 20_000,
]


@pytest.mark.parametrize("text", MALFORMED)
async def test_malformed_json_is_refused(text, standing_team):
    reply = await standing_team.http.post("/chat/completions", content=text, headers=JSON)
    assert reply.status_code in (400, 422), reply.text
    assert isinstance(reply.json()["detail"], str)


async def test_harmless_parameters_are_ignored(team, model):
    body = chat(model, user="me", metadata={"a": "b"}, store=False, frequency_penalty=0, logit_bias={}, min_p=0.0)
    body |= {"response_format": {"type": "text"}, "parallel_tool_calls": True, "service_tier": "auto"}
    assert (await team.http.post("/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize("name", ["nothing", "\x00", "a\nb"])
async def test_an_unknown_model_is_not_found(name, standing_team):
    reply = await standing_team.http.post("/chat/completions", json={"model": name, "messages": [USER]})
    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "not_found_error"


async def test_openais_own_client_reads_it(origin, team, model):
    client = openai.AsyncOpenAI(
        base_url=f"{origin}/v1", api_key=team.key, http_client=httpx.AsyncClient(trust_env=False)
    )
    whole = await client.chat.completions.create(model=model["model_name"], messages=[USER], logprobs=True)
    assert whole.choices[0].message.content == "36"
    assert whole.choices[0].logprobs.content[0].token == "3"
    stream = await client.chat.completions.create(
        model=model["model_name"],
        messages=[USER],
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage = {0: "", 1: ""}, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "36", 1: "36"}
    assert usage.completion_tokens == 6
    completion = await client.completions.create(model=model["model_name"], prompt="12*3=", logprobs=1)
    assert completion.choices[0].text == "36"
    assert model["model_name"] in {listed.id async for listed in client.models.list()}
    assert (await client.models.retrieve(model["model_name"])).id == model["model_name"]
    await client.close()


async def events(team, body, path="/chat/completions"):
    async with team.http.stream("POST", path, json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        return [line.removeprefix("data: ") async for line in reply.aiter_lines() if line]


async def test_a_stream_carries_ids_logprobs_and_a_reason(team, model):
    lines = await events(team, chat(model, logprobs=True, return_token_ids=True))
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["prompt_token_ids"] == list(map(ord, RENDERED))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "36"
    assert [i for choice in choices for i in choice.get("token_ids", [])] == [ord("3"), ord("6"), END]
    assert sum(len(choice["logprobs"]["content"]) for choice in choices if choice.get("logprobs")) == 3
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


async def test_a_stream_tells_reasoning_and_tool_calls_at_the_end(team, model, sampler_script):
    sampler_script.answer = '<think>hm</think>CALL add {"a": 1}'
    chunks = [json.loads(line) for line in (await events(team, chat(model, tools=[TOOL])))[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert {"reasoning_content": "hm"} in deltas
    [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["index"] == 0
    assert calls[0]["function"]["name"] == "add"
    assert "".join(delta.get("content") or "" for delta in deltas) == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_error_before_the_first_token_keeps_its_status_in_a_stream(team, model):
    reply = await team.http.post("/chat/completions", json=chat(model, stream=True, checkpoint="nothing"))
    assert reply.status_code == 404


async def test_a_client_that_hangs_up_stops_the_sampling(team, model, sampler_script):
    sampler_script.endless = True
    async with team.http.stream("POST", "/chat/completions", json=chat(model, stream=True)) as reply:
        async for _ in reply.aiter_lines():
            break
    await until(lambda: sampler_script.cancelled == 1)
    waiting = asyncio.create_task(team.http.post("/chat/completions", json=chat(model)))
    await until(lambda: len(sampler_script.requests) == 2)
    waiting.cancel()
    await until(lambda: sampler_script.cancelled == 2)


async def test_a_sampler_that_dies_before_anything_is_answered_costs_a_retry(team, model, sampler_script):
    for die_after in (0, 1):
        sampler_script.die_times, sampler_script.die_after_tokens = 1, die_after
        reply = await team.http.post("/chat/completions", json=chat(model))
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == "36"


async def test_a_sampler_that_is_not_there_costs_a_retry_once(team, model, base, database, sampler_script):
    async with another_sampler(database, base.id, "http://127.0.0.1:1"):
        for question in "abcdefgh":  # half of them would go there first
            messages = [{"role": "user", "content": question}]
            for stream in (False, True):
                reply = await team.http.post("/chat/completions", json=chat(model, messages=messages, stream=stream))
                assert reply.status_code == 200, reply.text


async def test_a_sampler_that_dies_late_costs_a_retry_too(team, model, sampler_script):
    """However long it had worked: only the time in which nobody takes a request is limited (to 1 s here)."""
    sampler_script.die_times, sampler_script.die_after_tokens, sampler_script.die_after_s = 2, 1, 1.1
    reply = await team.http.post("/chat/completions", json=chat(model))
    assert reply.status_code == 200, reply.text


async def test_a_revoked_key_is_refused_at_once(origin, database, base):
    async with new_team(origin, database) as team:
        body = {"model": base.slug, "messages": [USER]}
        assert (await team.http.post("/chat/completions", json=body)).status_code == 200
        async with database.session() as session:
            await revoke_key(session, team.key[:10])
        reply = await team.http.post("/chat/completions", json=body)
        assert reply.status_code == 401
        assert "revoked" in reply.json()["error"]["message"]


async def test_a_team_with_too_much_at_once_is_told_to_wait(database_url, database, base, tmp_path, sampler_script):
    limits = GatewayLimits(running_per_team=2, waiting_per_team=0)
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", gateway_limits=limits)
    sampler_script.endless = True
    body = {"model": base.slug, "messages": [USER], "stream": True}
    async with serving(create_app(settings)) as url, new_team(url, database) as team, AsyncExitStack() as streams:
        for _ in range(2):
            reply = await streams.enter_async_context(team.http.stream("POST", "/chat/completions", json=body))
            assert reply.status_code == 200
        refused = await team.http.post("/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
        await streams.aclose()
        sampler_script.endless = False

        async def served() -> bool:
            return (await team.http.post("/chat/completions", json={**body, "stream": False})).status_code == 200

        async with asyncio.timeout(60):
            while not await served():  # noqa: ASYNC110 - it takes a moment until hang-ups are seen
                await asyncio.sleep(0.05)


async def test_a_pin_without_files_is_gone(team, model, database):
    step = await team.step(model["id"])
    async with database.session() as session:
        thinned = update(CheckpointRow).where(CheckpointRow.id == uuid.UUID(step["checkpoint_id"]))
        await session.execute(thinned.values(files_removed_at=func.clock_timestamp()))
    reply = await team.http.post("/chat/completions", json=chat(model, checkpoint=step["checkpoint_id"]))
    assert reply.status_code == 410
    assert "retention" in reply.json()["detail"]


async def test_an_answer_that_is_not_streamed_is_asked_for_in_one_piece(team, model, sampler_script):
    await team.http.post("/chat/completions", json=chat(model))
    await events(team, chat(model))
    assert [request.whole for request in sampler_script.requests] == [True, False]


async def test_a_stream_that_breaks_midway_ends_with_an_error(team, model, sampler_script):
    sampler_script.die_times, sampler_script.die_after_tokens = 1, 1
    lines = await events(team, chat(model))
    assert "the sampler was lost" in json.loads(lines[-1])["error"]["message"]


@pytest.mark.parametrize("die_after", [0, 1])
async def test_samplers_that_keep_dying_are_unavailable(die_after, team, model, sampler_script):
    sampler_script.die_times, sampler_script.die_after_tokens = 99, die_after
    reply = await team.http.post("/chat/completions", json=chat(model))
    assert reply.status_code == 503
    assert reply.headers["retry-after"]


async def test_without_a_sampler_the_gateway_says_when_to_come_back(team, model, database):
    async with no_samplers(database):
        reply = await team.http.post("/chat/completions", json=chat(model))
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    assert "no sampler" in reply.json()["error"]["message"]


async def test_a_pin_that_no_sampler_loads_in_time_is_unavailable(team, model, database):
    slow = await unloaded_checkpoint(database, model["id"])
    reply = await team.http.post("/chat/completions", json=chat(model, checkpoint=str(slow.id)))
    assert reply.status_code == 503
    assert "within 1 s" in reply.json()["detail"]


async def test_completions_take_texts_and_ids(team, model, sampler_script):
    for prompt, expected in (("12*3=", 1), (["1", "22"], 2), ([49, 50], 1), ([[49], [50, 51]], 2)):
        body = {"model": model["model_name"], "prompt": prompt, "n": 2, "return_token_ids": True, "seed": 1}
        reply = (await team.http.post("/v1/completions", json=body)).json()
        assert [choice["index"] for choice in reply["choices"]] == list(range(2 * expected))
        assert reply["object"] == "text_completion"
        assert reply["choices"][0]["text"] == "36"
        assert reply["choices"][0]["token_ids"] == [51, 54, END]
    assert reply["choices"][2]["prompt_token_ids"] == [50, 51]
    assert reply["usage"]["prompt_tokens"] == 3
    assert sampler_script.requests[0].params.max_tokens == 16


async def test_completions_have_logprobs_in_columns_and_stream(team, model):
    body = {"model": model["model_name"], "prompt": "x", "logprobs": 1}
    logprobs = (await team.http.post("/completions", json=body)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["3", "6", ""]
    assert logprobs["token_logprobs"] == [-0.5] * 3
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["top_logprobs"][0] == {"A": -2.0}
    chunks = [json.loads(line) for line in (await events(team, body, "/completions"))[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "36"


@pytest.mark.parametrize(
    "prompt", ["\ud800", ["x", "\udfff"], [], [[]], "", [1000], [[1], ["a"]], 5, None, [-1], {"a": 1}, [1.5]]
)
async def test_a_bad_prompt_is_refused(prompt, standing_team, standing_model):
    content = json.dumps({"model": standing_model["model_name"], "prompt": prompt})
    reply = await standing_team.http.post("/completions", content=content, headers=JSON)
    assert reply.status_code == 422, reply.text


@pytest.mark.parametrize("changes", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}, {"prompt": ["x"] * 129}])
async def test_completions_refuse_what_they_lack(changes, standing_team, standing_model):
    reply = await standing_team.http.post(
        "/completions", json={"model": standing_model["model_name"], "prompt": "x", **changes}
    )
    assert reply.status_code == 422


@asynccontextmanager
async def another_sampler(database, base_id, url):
    sampler_id = await register_sampler(database, base_id, url)
    try:
        yield
    finally:
        async with database.session() as session:
            await session.execute(delete(SamplerRow).where(SamplerRow.id == sampler_id))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the sampler runs behind a socket
            await asyncio.sleep(0.01)
