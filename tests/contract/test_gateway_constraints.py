"""What an answer has to be, in every spelling that clients have for it; nonsense is refused before it is sampled."""

from __future__ import annotations

import functools
import json

import pytest

USER = {"role": "user", "content": "12*3?"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD, MULTIPLY = TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "multiply")
]
NAMED = {"type": "function", "function": {"name": "multiply"}}
DEEP = functools.reduce(lambda inner, _: {"items": inner}, range(100), {})


@pytest.fixture
def ask(standing_team, standing_model):
    async def ask(path="/chat/completions", **body):
        prompt = {"messages": [USER]} if "chat" in path else {"prompt": "12*3="}
        return await standing_team.http.post(path, json={"model": standing_model["model_name"], **prompt, **body})

    return ask


ASKED = {
    "json object": ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
    "json schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}},
        {"json_schema": SCHEMA},
    ),
    "vLLM's json": ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"json_schema": SCHEMA}),
    "vLLM's object": ({"structured_outputs": {"json_object": True}}, {"json_schema": {"type": "object"}}),
    "vLLM's regex": ({"structured_outputs": {"regex": "[0-9]+", "json": None}}, {"regex": "[0-9]+"}),
    "vLLM's choice": ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
    "vLLM's grammar": ({"structured_outputs": {"grammar": 'start: "a"'}}, {"grammar": 'start: "a"'}),
    "guided json": ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}),
    "guided regex": ({"guided_regex": "a"}, {"regex": "a"}),
    "guided choice": ({"guided_choice": ["a"]}, {"choice": ["a"]}),
    "guided grammar": ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
    "plain text": ({"response_format": {"type": "text"}}, None),
}


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("case", ASKED)
async def test_a_constraint_reaches_the_sampler_in_one_form(case, path, ask, sampler_script):
    body, expected = ASKED[case]
    reply = await ask(path, **body)
    assert reply.status_code == 200, reply.text
    constraint = sampler_script.requests[0].params.constraint
    if expected is None:
        assert constraint is None
        return
    shown = constraint.model_dump(exclude_none=True)
    reasons_first = shown.pop("after_reasoning", None)
    assert shown == expected
    assert (reasons_first is not None) == ("chat" in path)


FORCED = {
    "required": ({"tool_choice": "required"}, TOOLS, False),
    "required, one": ({"tool_choice": "required", "parallel_tool_calls": False}, TOOLS, True),
    "named": ({"tool_choice": NAMED}, [MULTIPLY], True),
}


@pytest.mark.parametrize("case", FORCED)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_forced_call_reaches_the_sampler(case, stream, ask, sampler_script):
    body, tools, single = FORCED[case]
    sampler_script.answer = 'CALL multiply {"a": 1}'
    reply = await ask(tools=TOOLS, stream=stream, chat_template_kwargs={"enable_thinking": False}, **body)
    assert reply.status_code == 200, reply.text
    constraint = sampler_script.requests[0].params.constraint
    assert (constraint.calls.tools, constraint.calls.single) == (tools, single)
    assert constraint.after_reasoning == {"enable_thinking": False}
    assert sampler_script.renders[0].tools == TOOLS
    assert "tool_calls" in reply.text
    if stream:
        assert sampler_script.requests[0].reading.tool_choice == body["tool_choice"]


REFUSED = {
    "two at once": ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "both constrain the answer"),
    "call and format": (
        {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}},
        "both constrain",
    ),
    "nothing to call": ({"tool_choice": "required"}, "there is nothing to call"),
    "unknown function": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "divide"}}},
        "'divide', which is not in tools",
    ),
    "another word": ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice is"),
    "no name": ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice is"),
    "allowed tools": ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice is"),
    "no format": ({"response_format": 7}, "response_format.type is None"),
    "another format": ({"response_format": {"type": "structural_tag"}}, "response_format.type is 'structural_tag'"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "json_schema.schema is missing"),
    "schema of a list": ({"guided_json": [1]}, "guided_json is not a JSON schema"),
    "schema that is no JSON": ({"guided_json": "{"}, "guided_json is not JSON"),
    "deep schema": ({"guided_json": DEEP}, "nested too deeply"),
    "no regex": ({"guided_regex": ""}, "guided_regex must be a text"),
    "long regex": ({"guided_regex": "a" * 20_000}, "16384 at most"),
    "no choices": ({"guided_choice": []}, "guided_choice must be a list of texts"),
    "many choices": ({"guided_choice": ["a"] * 2000}, "1024 at most"),
    "two kinds": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs takes one of"),
    "no kind": ({"structured_outputs": {}}, "structured_outputs takes one of"),
    "unknown kind": ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs takes one of"),
    "a number": ({"structured_outputs": 5}, "structured_outputs takes one of"),
    "min_tokens": ({"guided_regex": "a", "min_tokens": 3}, "min_tokens contradicts guided_regex"),
    "ignore_eos": ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos contradicts guided_regex"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_makes_no_sense_is_refused(case, ask, sampler_script):
    body, sentence = REFUSED[case]
    reply = await ask(**body)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["error"]["message"]
    assert sampler_script.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_sampler_cannot_keep_to_is_the_clients_to_change(stream, ask, sampler_script):
    sampler_script.refusal = "the sampler cannot keep to this constraint: Invalid type: nonsense"
    reply = await ask(guided_json={"type": "nonsense"}, stream=stream)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == sampler_script.refusal
    assert reply.json()["error"]["param"] == "guided_json"


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"guided_regex": "a", "temperature": 0.5}, "temperature, guided_regex"),
    ],
)
async def test_a_training_rollout_under_a_constraint_is_told_that_it_is_off_policy(body, setting, ask):
    assert (await ask(return_token_ids=True, **body)).headers["x-headway-off-policy"] == setting
    assert "x-headway-off-policy" not in (await ask(**body)).headers
