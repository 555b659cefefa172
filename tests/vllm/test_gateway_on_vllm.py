"""The gateway in front of vLLM, through the official OpenAI client and curl: what a client sees of parsers, forms, ids
and logprobs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from sampler.app import create_app as create_sampler_app
from server.app import create_app
from server.process.settings import ServerSettings
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.contract.conftest import Team, new_team, serving
from tests.contract.stand_ins import keep_alive, register_sampler
from wire.adapter_names import base_adapter_name
from wire.process.tokens import Tokens

pytestmark = pytest.mark.vllm

USER = [{"role": "user", "content": "?"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
ONE = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
async def team(backend, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Team]:
    database = AsyncDatabase(postgres_url)
    info = {"vocab_size": backend.info.vocab_size, "context_length": 512, "architecture": "Qwen3", "dtype": "float32"}
    async with database.session() as session:
        base = ModelRow(slug="tiny", name="tiny", weights="/nowhere", info={**info, "num_parameters": 1})
        session.add(base)
    adapter = base_adapter_name(base.id)
    await asyncio.to_thread(backend.load_adapter, adapter, None)
    settings = ServerSettings(postgres_url, f"file://{tmp_path_factory.mktemp('blobs')}", "token")
    async with (
        serving(create_sampler_app(backend, Tokens("token"))) as sampler,
        serving(create_app(settings)) as origin,
    ):
        await register_sampler(database, base.id, sampler)
        heart = asyncio.create_task(keep_alive(database))
        async with new_team(origin, database) as team:
            yield team
        heart.cancel()
    backend.unload_adapter(adapter)
    await database.close()


@pytest.fixture(scope="module")
async def client(team: Team) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False)
    base_url = f"{str(team.http.base_url).rstrip('/')}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=team.key, max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture
def ask(client):
    async def ask(**body):
        extra = {**NO_THINKING, **body.pop("extra_body", {})}
        return await client.chat.completions.create(model="tiny", messages=USER, extra_body=extra, **body)

    return ask


@pytest.mark.parametrize("choice", ["required", ONE])
async def test_a_forced_call_comes_whole_and_streamed(choice, ask):
    # Blanks are free in JSON, and a random policy may lose itself in them.
    whole = [
        (await ask(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, seed=seed)).choices[0]
        for seed in range(4)
    ]
    for seed, expected in enumerate(whole):
        parts, reasons = ["", ""], []
        stream = await ask(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, seed=seed, stream=True)
        async for chunk in stream:
            reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            for call in (call for choice in chunk.choices for call in choice.delta.tool_calls or []):
                parts = [parts[0] + (call.function.name or ""), parts[1] + (call.function.arguments or "")]
        assert reasons == [expected.finish_reason]
        if expected.finish_reason == "tool_calls":
            [call] = expected.message.tool_calls
            assert call.function.name == parts[0] == "add"
            assert json.loads(call.function.arguments) == json.loads(parts[1])
            assert json.loads(parts[1])["a"] in (1, 2)
    assert "tool_calls" in [choice.finish_reason for choice in whole]


async def test_formats_are_kept_to(ask):
    enum = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["x", 3]}}}
    assert json.loads((await ask(response_format=enum)).choices[0].message.content) in ("x", 3)
    digits = await ask(n=3, extra_body={"structured_outputs": {"regex": "[0-9]{3}"}})
    assert all(re.fullmatch("[0-9]{3}", choice.message.content) for choice in digits.choices)
    started = await ask(response_format={"type": "json_object"}, max_tokens=20)
    assert started.choices[0].message.content.startswith("{")
    streamed = ""
    async for chunk in await ask(response_format=enum, stream=True):
        streamed += chunk.choices[0].delta.content or ""
    assert json.loads(streamed) in ("x", 3)


async def test_a_schema_that_is_none_is_the_clients_mistake(ask):
    nonsense = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="nonsense"):
            await ask(response_format=nonsense, stream=stream)


async def test_logprobs_stop_strings_seeds_and_limits(ask):
    asked = {"logprobs": True, "top_logprobs": 3, "seed": 5, "max_tokens": 12, "extra_body": {"return_token_ids": True}}
    one, again = await ask(**asked), await ask(**asked)
    choice = one.choices[0]
    ids = choice.model_extra["token_ids"]
    assert ids == again.choices[0].model_extra["token_ids"]
    assert len(ids) == len(choice.logprobs.content) == one.usage.completion_tokens <= 12
    assert one.usage.prompt_tokens == len(choice.model_extra["prompt_token_ids"])
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= entry.top_logprobs[0].logprob + 1e-5
        assert np.exp([top.logprob for top in entry.top_logprobs]).sum() <= 1.0001
    text = choice.message.content
    stop = text[3:5]
    stopped = await ask(**asked, stop=stop)
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    several = await ask(n=3, seed=5, max_tokens=12)
    assert several.choices[0].message.content == text
    assert len({choice.message.content for choice in several.choices}) > 1


async def test_a_turn_with_tools_and_reasoning_continues_the_very_ids(team: Team):
    first = {"model": "tiny", "messages": USER, "tools": TOOLS, "return_token_ids": True, "seed": 1, "max_tokens": 20}
    choice = (await team.http.post("/v1/chat/completions", json=first)).json()["choices"][0]
    so_far = choice["prompt_token_ids"] + choice["token_ids"]
    messages = [*USER, choice["message"], {"role": "tool", "tool_call_id": "1", "content": "3"}]
    second = {**first, "messages": messages, "prompt_token_ids": so_far, "continuation_from": 2}
    reply = await team.http.post("/v1/chat/completions", json=second)
    assert reply.status_code == 200, reply.text
    prompt = reply.json()["choices"][0]["prompt_token_ids"]
    assert prompt[: len(so_far)] == so_far
    assert len(prompt) > len(so_far)


async def test_completions_and_models(client):
    models = await client.models.list()
    assert [model.id for model in models.data] == ["tiny"]
    reply = await client.completions.create(
        model="tiny", prompt=[[11, 12], [13]], max_tokens=4, logprobs=2, seed=1, extra_body={"return_token_ids": True}
    )
    assert [len(choice.logprobs.tokens) for choice in reply.choices] == [
        len(choice.model_extra["token_ids"]) for choice in reply.choices
    ]
    digits = await client.completions.create(model="tiny", prompt="1+1=", extra_body={"guided_regex": "[0-9]{2}"})
    assert re.fullmatch("[0-9]{2}", digits.choices[0].text)


async def test_curl_reads_a_stream(team: Team):
    body = {"model": "tiny", "messages": USER, "stream": True, "max_tokens": 4, "guided_choice": ["ab"], **NO_THINKING}
    url = f"{str(team.http.base_url).rstrip('/')}/v1/chat/completions"
    headers = ["-H", f"Authorization: Bearer {team.key}", "-H", "Content-Type: application/json"]
    command = ["curl", "--noproxy", "*", "-sN", url, *headers, "-d", json.dumps(body)]
    out = (await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)).stdout
    *lines, done = [line.removeprefix("data: ") for line in out.splitlines() if line]
    assert done == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content") or "" for delta in deltas) == "ab"
