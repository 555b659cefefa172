"""Refusals of the gateway are those that OpenAI's client, and harnesses that know vLLM, look for."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.contract.conftest import CONTEXT
from tests.contract.test_models import no_samplers

USER = {"role": "user", "content": "12*3?"}
LONG = "x" * CONTEXT


@pytest.fixture
def client_of(origin):
    def client_of(key):
        http = httpx.AsyncClient(trust_env=False)
        return openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=key, max_retries=0, http_client=http)

    return client_of


@pytest.fixture
async def client(client_of, standing_team):
    async with client_of(standing_team.key) as client:
        yield client


def contract(error):
    """What clients tell refusals apart by."""
    return error.status_code, error.type, error.code, error.param


TOO_LONG = {
    "a chat": {"messages": [{"role": "user", "content": LONG}]},
    "a chat with max_tokens": {"messages": [{"role": "user", "content": LONG}], "max_tokens": 5},
    "a chat of several answers": {"messages": [{"role": "user", "content": LONG}], "n": 2},
    "a later turn": {
        "messages": [USER, {"role": "assistant", "content": "36"}, USER],
        "extra_body": {"prompt_token_ids": [1] * CONTEXT, "continuation_from": 2},
    },
    "a text": {"prompt": LONG, "max_tokens": 5},
    "texts, of which one is too long": {"prompt": ["x", LONG]},
    "token ids": {"prompt": [1] * CONTEXT},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("what", TOO_LONG)
async def test_a_prompt_that_fills_the_context_is_a_bad_request(what, stream, client, standing_model, sampler_script):
    body = TOO_LONG[what]
    create = client.chat.completions.create if "messages" in body else client.completions.create
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens") as refused:
        await create(model=standing_model["model_name"], stream=stream, **body)
    param = "messages" if "messages" in body else "prompt"
    assert contract(refused.value) == (400, "invalid_request_error", "context_length_exceeded", param)


async def test_the_list_of_models_says_how_long_prompt_and_answer_may_be(client, standing_model):
    listed = [model async for model in client.models.list()]
    assert {model.model_extra["max_model_len"] for model in listed if model.id == standing_model["model_name"]} == {
        CONTEXT
    }
    assert (await client.models.retrieve(standing_model["model_name"])).model_extra["max_model_len"] == CONTEXT


async def test_an_unknown_model_is_not_found_by_chats_completions_and_the_list(client):
    for call in (
        client.chat.completions.create(model="nothing", messages=[USER]),
        client.completions.create(model="nothing", prompt="x"),
        client.models.retrieve("nothing"),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            await call
        assert contract(refused.value) == (404, "not_found_error", "model_not_found", "model")


async def test_an_unknown_checkpoint_is_not_found(client, standing_model):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(
            model=standing_model["model_name"], messages=[USER], extra_body={"checkpoint": "nothing"}
        )
    assert contract(refused.value) == (404, "not_found_error", "not_found", "checkpoint")


async def test_an_unknown_key_is_not_authenticated(client_of, standing_model):
    async with client_of("hw_nobody-knows-this-one") as stranger:
        for call in (
            stranger.chat.completions.create(model=standing_model["model_name"], messages=[USER]),
            stranger.models.retrieve("nothing"),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                await call
            assert contract(refused.value)[::2] == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"messages": [{"role": "pirate", "content": "arr"}]}, "messages[0].role"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"extra_body": {"mirostat": 2}}, "mirostat"),
    ],
)
async def test_a_parameter_that_is_refused_is_named(changes, param, client, standing_model):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await client.chat.completions.create(**{"model": standing_model["model_name"], "messages": [USER], **changes})
    assert contract(refused.value) == (422, "invalid_request_error", "invalid_request", param)


async def test_a_service_without_samplers_says_when_to_come_back(client, standing_model, database):
    async with no_samplers(database):
        with pytest.raises(openai.InternalServerError) as refused:
            await client.chat.completions.create(model=standing_model["model_name"], messages=[USER])
    assert contract(refused.value) == (503, "server_error", "unavailable", None)
    assert int(refused.value.response.headers["retry-after"]) > 0


async def test_an_endpoint_that_is_not_served_is_refused_in_openais_shape_too(standing_team):
    reply = await standing_team.http.post("/v1/embeddings", json={"model": "x", "input": "y"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == reply.json()["code"] == "not_found"
    assert reply.json()["error"]["message"] == reply.json()["detail"]
