"""The official OpenAI client finds what it expects, in its own types; refusals are exceptions of the right class."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.ports.scripted_backend import END

USER = {"role": "user", "content": "12*3?"}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}}
    for name in ("add", "multiply")
]


@pytest.fixture
async def client(origin, standing_team):
    async with openai.AsyncOpenAI(
        base_url=f"{origin}/v1",
        api_key=standing_team.key,
        max_retries=0,
        http_client=httpx.AsyncClient(trust_env=False),
    ) as client:
        yield client


@pytest.fixture
def ask(client, standing_model):
    async def ask(**body):
        return await client.chat.completions.create(model=standing_model["model_name"], **{"messages": [USER], **body})

    return ask


async def test_a_tool_call_and_its_answer_go_round(ask, sampler_script):
    sampler_script.answer = 'CALL add {"a": 1}'
    reply = await ask(tools=TOOLS, tool_choice="auto")
    [call] = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    assert reply.choices[0].finish_reason == "tool_calls"
    sampler_script.answer = "1"
    answer = {"role": "tool", "tool_call_id": call.id, "content": "1"}
    turn = await ask(tools=TOOLS, messages=[USER, reply.choices[0].message, answer])
    assert turn.choices[0].message.content == "1"
    assert sampler_script.renders[-1].messages[1]["tool_calls"][0]["id"] == call.id


async def test_the_clients_own_stream_helper_puts_tool_calls_together(client, standing_model, sampler_script):
    sampler_script.answer = 'CALL add {"a": 1}'
    async with client.chat.completions.stream(
        model=standing_model["model_name"], messages=[USER], tools=TOOLS
    ) as stream:
        async for _ in stream:
            pass
        reply = await stream.get_final_completion()
    [call] = reply.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')
    assert reply.choices[0].finish_reason == "tool_calls"


async def test_logprobs_come_with_alternatives_whole_and_streamed(ask):
    whole = await ask(logprobs=True, top_logprobs=2)
    assert [entry.token for entry in whole.choices[0].logprobs.content] == ["3", "6", ""]
    assert [top.token for top in whole.choices[0].logprobs.content[0].top_logprobs] == ["A", "B"]
    entries = []
    async for chunk in await ask(logprobs=True, top_logprobs=2, stream=True):
        entries += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert entries == whole.choices[0].logprobs.content


async def test_token_ids_ride_along_as_extra_fields(ask):
    reply = await ask(logprobs=True, extra_body={"return_token_ids": True})
    assert reply.choices[0].model_extra["token_ids"] == [ord("3"), ord("6"), END]
    assert reply.choices[0].model_extra["prompt_token_ids"] == reply.model_extra["prompt_token_ids"]


async def test_reasoning_is_an_extra_field_of_the_message(ask, sampler_script):
    sampler_script.answer = "<think>hm</think>36"
    message = (await ask()).choices[0].message
    assert (message.content, message.model_extra["reasoning_content"]) == ("36", "hm")


async def test_several_choices_stop_strings_and_seeds(ask, sampler_script):
    reply = await ask(n=3, seed=5, stop=["\n"], max_completion_tokens=1, temperature=0.5)
    assert [choice.finish_reason for choice in reply.choices] == ["length"] * 3
    assert sorted(request.params.seed for request in sampler_script.requests) == [5, 6, 7]


async def test_completions_stream(client, standing_model):
    chunks = await client.completions.create(
        model=standing_model["model_name"], prompt=["1", "2"], stream=True, stream_options={"include_usage": True}
    )
    texts, usage = {0: "", 1: ""}, None
    async for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "36", 1: "36"}
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 6)


REFUSED = {
    "alternatives alone": ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
    "no special tokens": ({"extra_body": {"skip_special_tokens": False}}, "skip_special_tokens is not supported"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_supported_says_so(case, ask, sampler_script):
    changes, sentence = REFUSED[case]
    with pytest.raises(openai.UnprocessableEntityError, match=sentence):
        await ask(**changes)
    assert sampler_script.requests == []


async def test_one_call_at_a_time_is_kept_to(ask, sampler_script):
    sampler_script.answer = 'CALL add {"a": 1}'
    sampler_script.calls = 2
    both = await ask(tools=TOOLS)
    one = await ask(tools=TOOLS, parallel_tool_calls=False)
    assert [len(reply.choices[0].message.tool_calls) for reply in (both, one)] == [2, 1]


@pytest.mark.parametrize("setting", [{"temperature": 0.6}, {"top_p": 0.9}, {"extra_body": {"top_k": 5}}])
async def test_a_training_rollout_is_told_what_makes_it_off_policy(setting, client, standing_model):
    async def header(**body) -> str | None:
        extra = {**setting.get("extra_body", {}), **body}
        raw = await client.chat.completions.with_raw_response.create(
            model=standing_model["model_name"], messages=[USER], **{**setting, "extra_body": extra}
        )
        return raw.headers.get("x-headway-off-policy")

    assert await header() is None
    assert await header(return_token_ids=True) in ("temperature", "top_p", "top_k")
