"""The official OpenAI client's responses against a model of this server: text, tools, reasoning, streams, turns."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest
from openai.types.responses import response_create_params as params
from pydantic import BaseModel

from server.protocols.openai.responses.parameters import UNSERVED
from server.protocols.openai.responses.schemas import ResponseRequest
from tests.ports.scripted_backend import END

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": name, "description": name, "parameters": {"type": "object"}, "strict": True}
    for name in ("add", "multiply")
]
CALLED = '<think>hm</think>CALL add {"a": 1}'


@pytest.fixture
async def client(origin, standing_team):
    async with openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=standing_team.key, max_retries=0) as client:
        yield client


@pytest.fixture
def asked(standing_model):
    """The fields of a request, with changes."""

    def asked(**changes) -> Any:
        return {"model": standing_model["model_name"], "input": "12*3?", **changes}

    return asked


async def test_an_answer_is_a_response_with_its_usage(client, asked, standing_model, sampler_script):
    response = await client.responses.create(
        **asked(instructions="Be brief.", temperature=0.5, top_p=0.9, max_output_tokens=20, metadata={"a": "b"})
    )
    assert (response.output_text, response.status, response.store) == ("36", "completed", False)
    assert (response.model, response.metadata) == (standing_model["model_name"], {"a": "b"})
    prompt = "<system>Be brief.<user>12*3?<assistant>"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(prompt), 3)
    sampled = sampler_script.requests[0].params
    assert (sampled.temperature, sampled.top_p, sampled.max_tokens) == (0.5, 0.9, 20)
    cut = await client.responses.create(**asked(max_output_tokens=1))
    assert (cut.status, cut.incomplete_details.reason, cut.output_text) == ("incomplete", "max_output_tokens", "3")


async def test_a_call_and_its_output_go_round_as_items(client, asked, sampler_script):
    sampler_script.answer = CALLED
    response = await client.responses.create(**asked(tools=TOOLS))
    thought, call = response.output
    assert (thought.content[0].text, call.name, json.loads(call.arguments)) == ("hm", "add", {"a": 1})
    turn = [
        {"role": "developer", "content": "Add."},
        {"role": "user", "content": [{"type": "input_text", "text": "12*3?"}]},
        *(item.model_dump(exclude_unset=True) for item in response.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "1"},
    ]
    sampler_script.answer = "1"
    assert (await client.responses.create(**asked(tools=TOOLS, input=turn))).output_text == "1"
    rendered = sampler_script.renders[-1]
    assert rendered.tools[0]["function"] == {key: TOOLS[0][key] for key in TOOLS[0] if key != "type"}
    assert [message["role"] for message in rendered.messages] == ["system", "user", "assistant", "tool"]
    answer, output = rendered.messages[2:]
    assert (answer["reasoning_content"], answer["tool_calls"][0]["id"]) == ("hm", call.call_id)
    assert (output["tool_call_id"], output["content"]) == (call.call_id, "1")


@pytest.mark.parametrize("answer", ["36", CALLED, "<think>hm</think>36", "<think>hm</think>", ""])
async def test_a_stream_says_what_the_whole_response_says(client, asked, sampler_script, answer):
    sampler_script.answer = answer
    sent = asked(tools=TOOLS, reasoning={"summary": "auto", "effort": "low"})
    whole = await client.responses.create(**sent)
    assert sampler_script.renders[-1].chat_template_kwargs == {"reasoning_effort": "low"}
    events = []
    async with client.responses.stream(**sent) as stream:
        async for event in stream:
            events.append(event)
        streamed = await stream.get_final_response()

    def said(response) -> Any:
        items = [item.model_dump(exclude={"id", "call_id", "parsed_arguments"}) for item in response.output]
        for item in items:
            for part in item.get("content") or []:
                part.pop("parsed", None)
        return items, response.status, response.usage.model_dump()

    assert said(streamed) == said(whole)
    assert [event.type for event in (events[0], events[1], events[-1])] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item.id for event in events if event.type == "response.output_item.done"]
    assert done == [item.id for item in streamed.output]


async def test_raw_events_come_in_the_order_of_the_api(client, asked, sampler_script):
    sampler_script.answer = CALLED
    kinds = [event.type async for event in await client.responses.create(**asked(tools=TOOLS), stream=True)]
    assert [kind.removeprefix("response.") for kind in kinds] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


async def test_logprobs_come_with_the_text_whole_and_streamed(client, asked):
    sent = asked(include=["message.output_text.logprobs"], top_logprobs=2)
    whole = (await client.responses.create(**sent)).output[0].content[0].logprobs
    assert [(entry.token, [top.token for top in entry.top_logprobs]) for entry in whole] == [
        ("3", ["A", "B"]),
        ("6", ["A", "B"]),
        ("", ["A", "B"]),
    ]
    async with client.responses.stream(**sent) as stream:
        assert (await stream.get_final_response()).output[0].content[0].logprobs == whole


async def test_a_format_is_parsed_by_the_client_and_kept_to_by_the_sampler(client, asked, sampler_script):
    class Product(BaseModel):
        value: int

    sampler_script.answer = '{"value": 36}'
    parsed = await client.responses.parse(**asked(text_format=Product))
    assert parsed.output_parsed == Product(value=36)
    assert sampler_script.requests[0].params.constraint.json_schema["properties"]["value"]["type"] == "integer"


async def test_calls_are_forced_kept_out_and_kept_to_one(client, asked, sampler_script):
    sampler_script.answer, sampler_script.calls = 'CALL add {"a": 1}', 2
    one = await client.responses.create(**asked(tools=TOOLS, parallel_tool_calls=False))
    assert [item.type for item in one.output] == ["function_call"]
    named = {"type": "function", "name": "multiply"}
    for choice, names in (("required", ["add", "multiply"]), (named, ["multiply"])):
        sampler_script.requests.clear()
        await client.responses.create(**asked(tools=TOOLS, tool_choice=choice))
        forced = sampler_script.requests[0].params.constraint.calls
        assert [tool["function"]["name"] for tool in forced.tools] == names
    await client.responses.create(**asked(tools=TOOLS, tool_choice="none"))
    assert sampler_script.renders[-1].tools == []


USER = {"role": "user", "content": "hi"}
REFUSED: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "an unknown field": ({"extra_body": {"temprature": 1}}, "did you mean temperature", "temprature"),
    "a picture": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:", "detail": "auto"}]}]},
        "is a picture, and 'org/Tiny-Base'",
        "input[0].content[0]",
    ),
    "a vendor's tool": ({"tools": [{"type": "web_search"}]}, "'web_search', which the vendor", "tools[0]"),
    "a vendor's item": ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "send the item itself", "input[1]"),
    "a hidden thought": (
        {"input": [USER, {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]},
        "encrypted_content is not supported",
        "input[1].encrypted_content",
    ),
    "a role that is none": ({"input": [{"role": [], "content": "x"}]}, r"input\[0\].role", "input[0].role"),
    "a cut prompt": ({"truncation": "auto"}, "truncation is not supported", "truncation"),
    "a conversation": ({"conversation": "c"}, "conversation is not supported", "conversation"),
    "later": ({"background": True}, "background is not supported", "background"),
    "a response that is nowhere": ({"previous_response_id": "resp_1"}, "Trace-Id", "previous_response_id"),
    "no room": ({"input": "x" * 600}, "maximum context length", "input"),
    "a schema that is none": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": []}}},
        "text.format.schema is not a JSON schema",
        "text.format.schema",
    ),
    "a tool that is not there": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}},
        "'x', which is not in tools",
        "tool_choice",
    ),
    "a wrong number": ({"max_output_tokens": 0}, "max_output_tokens: should be greater", "max_output_tokens"),
    "nothing": ({"input": []}, "input: list should have at least 1 item", "input"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_served_is_refused_by_name(case, client, asked):
    changes, sentence, param = REFUSED[case]
    errors = openai.UnprocessableEntityError, openai.BadRequestError, openai.NotFoundError
    with pytest.raises(errors, match=sentence) as refused:
        await client.responses.create(**asked(**changes))
    assert refused.value.param == param
    assert "\n" not in refused.value.body["message"]


NO_NUMBERS = {
    "metadata": '{"a": [{"b": NaN}]}',
    "tools": '[{"type": "function", "name": "f", "parameters": {"minimum": 1e400}}]',
    "user": "-Infinity",
}


@pytest.mark.parametrize("field", NO_NUMBERS)
async def test_numbers_that_json_does_not_have_are_refused_by_name(field, asked, standing_team):
    content = f'{json.dumps(asked())[:-1]}, "{field}": {NO_NUMBERS[field]}}}'
    headers = {"Content-Type": "application/json"}
    reply = await standing_team.http.post("/v1/responses", content=content, headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (422, field)
    assert "not finite" in error["message"]


NO_FUNCTIONS = [("parameters", odd) for odd in ("x", 3, [], True)] + [("strict", "yes"), ("description", 7)]


@pytest.mark.parametrize(("field", "odd"), NO_FUNCTIONS)
async def test_a_function_of_other_kinds_of_fields_is_refused_by_name(field, odd, client, asked):
    with pytest.raises(openai.UnprocessableEntityError, match="must be") as refused:
        await client.responses.create(**asked(tools=[{**TOOLS[0], field: odd}]))
    assert refused.value.param == f"tools[0].{field}"


def test_every_field_of_the_api_is_served_or_neutral_or_refused():
    assert {*params.ResponseCreateParamsBase.__annotations__} <= {*ResponseRequest.model_fields, *UNSERVED}


async def test_a_stream_that_breaks_is_an_error_of_its_client(client, asked, sampler_script):
    sampler_script.die_times, sampler_script.die_after_tokens = 1, 2
    with pytest.raises(openai.APIError):
        async for _ in await client.responses.create(**asked(), stream=True):
            pass


@pytest.mark.parametrize("by_id", [True, False])
async def test_turns_of_a_rollout_go_on_from_the_ids_that_were_sampled_and_train_as_one(
    by_id, client, asked, team, base, sampler_script
):
    model, trace = await team.fork(str(base.id)), uuid.uuid4().hex
    own = client.with_options(api_key=team.key, default_headers={"Trace-Id": trace})
    sampler_script.answer = '<think>hm</think>CALL add {"a":1}'
    sent = {**asked(tools=TOOLS, instructions="Add."), "model": model["model_name"]}
    first = await own.responses.create(**sent)
    assert first.store is True
    sampled = [*map(ord, "<system>Add.<user>12*3?<assistant>" + sampler_script.answer), END]
    output = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "1"}
    if by_id:
        sent |= {"previous_response_id": first.id, "input": [output]}
    else:
        items = [item.model_dump(exclude_unset=True) for item in first.output]
        sent["input"] = [{"role": "user", "content": "12*3?"}, *items, output]
    sampler_script.answer = "1"
    async with own.responses.stream(**sent) as stream:
        await stream.until_done()
    assert sampler_script.renders[-1].continued_ids == sampled
    assert [message["role"] for message in sampler_script.renders[-1].messages] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    await team.http.post(f"/v2/trace/{trace}/exit", json={"status": "completed", "reward": 1.0})
    reply = await team.train(model["id"], "forward-backward", {"inputs": [trace]})
    assert (reply.status_code, reply.json()["num_datums"]) == (200, 1), reply.text
