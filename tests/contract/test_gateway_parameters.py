"""Every parameter is served, neutral or refused by name: what would change a sample is never ignored."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any

import pytest

from server.protocols.openai.parameters import served_parameters, standing
from server.protocols.openai.schemas import ChatRequest, CompletionRequest
from tests.contract.parameters_of_others import (
    OF_OTHER_SERVERS,
    OPENAI_CHATS,
    OPENAI_COMPLETIONS,
    VLLM_CHATS,
    VLLM_COMPLETIONS,
)

USER = {"role": "user", "content": "12*3?"}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
CONTINUED = {"messages": [USER, {"role": "assistant", "content": "36"}, USER]}


def without_standing(kind, names):
    return {name for name in names if standing(kind, name) == "unknown"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (ChatRequest, OPENAI_CHATS),
        (ChatRequest, VLLM_CHATS),
        (CompletionRequest, OPENAI_COMPLETIONS),
        (CompletionRequest, VLLM_COMPLETIONS),
    ],
    ids=["chats of OpenAI", "chats of vLLM", "completions of OpenAI", "completions of vLLM"],
)
def test_every_parameter_of_openai_and_vllm_is_decided_upon(kind, names):
    assert without_standing(kind, names) == set()
    assert without_standing(kind, [*names, "one_of_next_year"]) == {"one_of_next_year"}


@pytest.mark.parametrize("name", OF_OTHER_SERVERS)
async def test_what_would_change_the_sample_elsewhere_is_refused_by_name(
    name, standing_team, standing_model, sampler_script
):
    body = {"model": standing_model["model_name"], "messages": [USER], name: OF_OTHER_SERVERS[name]}
    reply = await standing_team.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["param"] == name
    assert name in reply.json()["detail"]
    assert sampler_script.requests == []


async def test_a_prompt_that_the_client_rendered_gets_no_second_bos_behind_its_back(standing_team, standing_model):
    body = {"model": standing_model["model_name"], "prompt": "<bos>hi", "add_special_tokens": False}
    reply = await standing_team.http.post("/v1/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "add_special_tokens")


NESTED = {
    "response_format.schema": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "response_format.json_schema.shema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "shema": SCHEMA}}
    },
    "stream_options.continuous_usage_stats": {"stream_options": {"continuous_usage_stats": True}},
    "stream_options.include_usge": {"stream_options": {"include_usge": True}},
    "structured_outputs": {"structured_outputs": {"json": SCHEMA, "structural_tag": "x"}},
    "tools[0].defer_loading": {"tools": [{**TOOL, "defer_loading": True}]},
    "tools[0].function.paramters": {"tools": [{**TOOL, "function": {"name": "add", "paramters": SCHEMA}}]},
    "tool_choice.mode": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}, "mode": 1}},
    "messages[0].prefix": {"messages": [{**USER, "prefix": True}]},
    "messages[0].content[0].min_pixels": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "min_pixels": 1}]}]
    },
    "messages[1].function_call": {
        "messages": [USER, {"role": "assistant", "function_call": {"name": "add", "arguments": ""}}]
    },
    "messages[0].tool_calls[0].kind": {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "kind": "x"}]}]},
}


@pytest.mark.parametrize("where", NESTED)
async def test_what_is_not_understood_within_a_parameter_is_refused_by_name(
    where, standing_team, standing_model, sampler_script
):
    body = {"model": standing_model["model_name"], "messages": [USER], **NESTED[where]}
    reply = await standing_team.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["param"] == where
    assert sampler_script.requests == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("stop_tokens_ids", "stop_token_ids")],
)
async def test_a_misspelled_parameter_is_refused_with_the_one_that_was_meant(
    name, meant, standing_team, standing_model
):
    body = {"model": standing_model["model_name"], "messages": [USER], name: 1}
    reply = await standing_team.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 422
    assert f"unknown field {name}" in reply.json()["detail"]
    assert f"did you mean {meant}?" in reply.json()["detail"]


async def test_a_field_with_a_huge_name_is_refused_in_a_short_sentence(standing_team, standing_model):
    body = {"model": standing_model["model_name"], "messages": [USER], "x" * 50_000: 1}
    reply = await standing_team.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 422
    assert len(reply.text) < 1000


SENT_BY_CLIENTS = {
    "openai": {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "prompt_cache_retention": "24h",
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "parallel_tool_calls": True,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "n": 1,
        "stop": [],
    },
    "vllm": {
        "request_id": "1",
        "priority": 5,
        "cache_salt": "x",
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "use_beam_search": False,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "include_stop_str_in_output": False,
        "bad_words": [],
        "echo": False,
        "include_reasoning": True,
        "add_generation_prompt": True,
        "add_special_tokens": False,
        "return_tokens_as_token_ids": False,
        "truncate_prompt_tokens": -1,
    },
    "sglang": {"rid": "1", "separate_reasoning": True, "stream_reasoning": True, "return_hidden_states": False},
    "nulls": dict.fromkeys(("reasoning_effort", "tools", "documents", "seed", "nobody_knows_this")),
}


@pytest.mark.parametrize("client", SENT_BY_CLIENTS)
async def test_what_clients_send_along_changes_nothing(client, standing_team, standing_model, sampler_script):
    plain = {"model": standing_model["model_name"], "messages": [USER]}
    for body in (plain, {**plain, **SENT_BY_CLIENTS[client]}):
        reply = await standing_team.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
    assert _asked(sampler_script.requests[0]) == _asked(sampler_script.requests[1])


async def test_what_clients_add_to_an_answer_stays_out_of_the_prompt(standing_team, standing_model, sampler_script):
    called = {**CALL, "index": 0, "function": {**CALL["function"], "parsed_arguments": {}}}
    message = {"role": "assistant", "content": "36", "tool_calls": [called], "refusal": None, "annotations": []}
    added = {"provider_specific_fields": {"x": 1}, "cache_control": {"type": "ephemeral"}, "parsed": None}
    part = {"type": "text", "text": "12*3?", "cache_control": {"type": "ephemeral"}}
    tool = {**TOOL, "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [part]}, {**message, **added}]
    body = {"model": standing_model["model_name"], "messages": messages, "tools": [tool]}
    reply = await standing_team.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    [rendered] = sampler_script.renders
    assert rendered.messages == [USER, {"role": "assistant", "content": "36", "tool_calls": [CALL]}]
    assert rendered.tools == [TOOL]


async def test_two_names_of_one_parameter_must_agree(standing_team, standing_model, sampler_script):
    body = {"model": standing_model["model_name"], "messages": [USER], "max_tokens": 2, "max_completion_tokens": 2}
    assert (await standing_team.http.post("/v1/chat/completions", json=body)).status_code == 200
    reply = await standing_team.http.post("/v1/chat/completions", json={**body, "max_tokens": 3})
    assert reply.status_code == 422
    assert "max_tokens and max_completion_tokens differ" in reply.json()["detail"]


EFFECTS = {
    "messages": ({}, [USER, USER]),
    "n": ({}, 2),
    "stream": ({}, True),
    "stream_options": ({"stream": True}, {"include_usage": True}),
    "seed": ({}, 5),
    "stop": ({}, "\n"),
    "temperature": ({}, 0.5),
    "top_p": ({}, 0.5),
    "top_k": ({}, 5),
    "min_tokens": ({}, 1),
    "max_tokens": ({}, 1),
    "max_completion_tokens": ({}, 1),
    "stop_token_ids": ({}, [5]),
    "ignore_eos": ({}, True),
    "response_format": ({}, {"type": "json_object"}),
    "structured_outputs": ({}, {"regex": "a"}),
    "guided_json": ({}, SCHEMA),
    "guided_regex": ({}, "a"),
    "guided_choice": ({}, ["a"]),
    "guided_grammar": ({}, "start: /a/"),
    "return_token_ids": ({}, True),
    "logprobs": ({}, True),
    "top_logprobs": ({"logprobs": True}, 2),
    "tools": ({}, [TOOL]),
    "tool_choice": ({"tools": [TOOL]}, "required"),
    "parallel_tool_calls": ({"tools": [TOOL]}, False),
    "chat_template_kwargs": ({}, {"enable_thinking": False}),
    "prompt_token_ids": ({**CONTINUED, "continuation_from": 2, "prompt_token_ids": [1]}, [1, 2]),
    "continuation_from": (
        {"messages": [*CONTINUED["messages"], *CONTINUED["messages"]], "continuation_from": 2, "prompt_token_ids": [1]},
        5,
    ),
    "prompt": ({}, "12*4="),
    "checkpoint": ({}, None),
    "model": ({}, None),
}
"""What else the request says, and a value of the parameter under which something changes."""


@pytest.mark.parametrize(
    ("path", "kind", "prompt"),
    [
        ("/v1/chat/completions", ChatRequest, {"messages": [USER]}),
        ("/v1/completions", CompletionRequest, {"prompt": "12*3="}),
    ],
    ids=["chats", "completions"],
)
async def test_every_served_parameter_has_its_effect(path, kind, prompt, team, model, base, sampler_script):
    first = await team.step(model["id"])
    await team.step(model["id"])
    sampler_script.answer, sampler_script.calls = 'CALL add {"a": 1}', 2
    plain = {"model": model["model_name"], **prompt}

    async def effect(body):
        sampler_script.requests.clear()
        reply = await team.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        asked = sorted(_asked(request) for request in sampler_script.requests)
        return asked, _without_passing_facts(reply.text)

    values = {"checkpoint": first["checkpoint_id"], "model": base.slug}
    without = list[tuple[Any, Any]]()
    """What else a request says, and the effect of that alone."""
    for name in served_parameters(kind):
        beside, value = EFFECTS[name]
        if name == "logprobs" and kind is CompletionRequest:
            value = 1
        alone = next((effect for said, effect in without if said == beside), None)
        if alone is None:
            alone = await effect({**plain, **beside})
            assert await effect({**plain, **beside}) == alone, f"what is sampled without {name} differs by itself"
            without.append((beside, alone))
        asked = {**plain, **beside, name: values.get(name, value)}
        assert await effect(asked) != alone, f"{name} is ignored"


def _asked(request):
    """What is asked of the sampler, without the number of the call."""
    return request.model_dump_json(exclude={"call": True, "chat": {"call"}})


def _without_passing_facts(text):
    """The reply without what differs from one to the next."""
    numbers = itertools.count()
    for line in text.splitlines():
        data = line.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        for passing in (json.loads(data)["id"], *_call_ids(json.loads(data))):
            text = text.replace(passing, str(next(numbers)))
        text = text.replace(f'"created":{json.loads(data)["created"]}', "")
    return text


def _call_ids(reply):
    for choice in reply["choices"]:
        said = choice.get("message") or choice.get("delta") or {}
        yield from (call["id"] for call in said.get("tool_calls") or [] if call.get("id"))


def test_ids_that_differ_by_chance_are_left_out_of_the_comparison():
    texts = [json.dumps({"id": uuid.uuid4().hex, "created": n, "choices": []}, separators=(",", ":")) for n in (1, 2)]
    assert _without_passing_facts(texts[0]) == _without_passing_facts(texts[1])
