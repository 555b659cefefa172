"""The official Anthropic client against a model of this server: text, tools, reasoning, streams, refusals, turns."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import anthropic
import pytest
from anthropic.types import message_create_params as plain
from anthropic.types.beta import message_count_tokens_params as counted
from anthropic.types.beta import message_create_params as beta

from server.protocols.anthropic.parameters import UNSERVED
from server.protocols.anthropic.schemas import MessagesRequest
from tests.ports.scripted_backend import END

USER = {"role": "user", "content": "12*3?"}
TOOLS: list[dict[str, Any]] = [
    {"name": name, "description": name, "input_schema": {"type": "object"}} for name in ("add", "multiply")
]


@pytest.fixture
async def client(origin, standing_team):
    async with anthropic.AsyncAnthropic(base_url=origin, api_key=standing_team.key, max_retries=0) as client:
        yield client


@pytest.fixture
def asked(standing_model):
    """The fields of a request, with changes."""

    def asked(**changes) -> Any:
        return {"model": standing_model["model_name"], "max_tokens": 60, "messages": [USER], **changes}

    return asked


async def test_an_answer_is_a_message_with_its_usage(client, asked, standing_model, sampler_script):
    message = await client.messages.create(
        **asked(system="Be brief.", extra_body={"temperature": 0.5, "top_k": 3, "top_p": 0.9})
    )
    assert [block.text for block in message.content] == ["36"]
    assert (message.model, message.role, message.stop_reason) == (standing_model["model_name"], "assistant", "end_turn")
    prompt = "<system>Be brief.<user>12*3?<assistant>"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (len(prompt), 3)
    params = sampler_script.requests[0].params
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.5, 3, 0.9, 60)


async def test_a_tool_call_and_its_result_go_round(client, asked, sampler_script):
    sampler_script.answer = '<think>hm</think>CALL add {"a": 1}'
    message = await client.messages.create(**asked(tools=TOOLS))
    thinking, call = message.content
    assert (thinking.thinking, call.name, call.input, message.stop_reason) == ("hm", "add", {"a": 1}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "1"}]}
    turn = [USER, message.to_param(), {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]}]
    sampler_script.answer = "1"
    assert (await client.messages.create(**asked(tools=TOOLS, messages=turn))).content[0].text == "1"
    rendered = sampler_script.renders[-1]
    assert rendered.tools[0]["function"] == {"name": "add", "description": "add", "parameters": {"type": "object"}}
    assert [one["role"] for one in rendered.messages] == ["user", "assistant", "tool", "user"]
    answer, result = rendered.messages[1:3]
    assert (answer["reasoning_content"], answer["tool_calls"][0]["function"]["arguments"]) == ("hm", '{"a": 1}')
    assert (result["tool_call_id"], result["content"]) == (call.id, "1")


@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("answer", ["36", '<think>hm</think>CALL add {"a": [1, "b"]}', "CALL add nonsense", ""])
async def test_a_stream_says_what_the_whole_message_says(client, asked, sampler_script, answer, beta):
    sampler_script.answer = answer
    messages = client.beta.messages if beta else client.messages
    whole = await messages.create(**asked(tools=TOOLS))
    kinds = []
    async with messages.stream(**asked(tools=TOOLS)) as stream:
        async for event in stream:
            kinds.append(event.type)
        streamed = await stream.get_final_message()

    def said(message) -> Any:
        blocks = [block.model_dump(exclude={"id", "signature"}) for block in message.content]
        return blocks, message.stop_reason, message.usage.input_tokens, message.usage.output_tokens

    assert said(streamed) == said(whole)
    assert (kinds[0], kinds[-1], kinds.count("content_block_start")) == (
        "message_start",
        "message_stop",
        len(whole.content),
    )


async def test_raw_events_come_in_the_order_of_the_api(client, asked, sampler_script):
    sampler_script.answer = '<think>hm</think>CALL add {"a": 1}'
    raw = [event async for event in await client.messages.create(**asked(tools=TOOLS), stream=True)]
    assert [event.type for event in raw] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [event.delta.type for event in raw if event.type == "content_block_delta"] == [
        "thinking_delta",
        "signature_delta",
        "input_json_delta",
    ]
    assert raw[0].message.usage.input_tokens == raw[-2].usage.input_tokens > 0


async def test_why_it_ended(client, asked, sampler_script):
    sampler_script.answer = "36 and so on"
    long = {"messages": [{"role": "user", "content": "x" * 492}]}
    reasons = []
    for changes in ({"stop_sequences": ["!", " and"]}, {"max_tokens": 1}, {"max_tokens": 9999, **long}):
        sampler_script.endless = changes.get("max_tokens") == 9999
        message = await client.messages.create(**asked(**changes))
        reasons.append((message.stop_reason, message.stop_sequence))
    assert reasons == [
        ("stop_sequence", " and"),
        ("max_tokens", None),
        ("model_context_window_exceeded", None),
    ]


async def test_calls_are_forced_kept_out_and_kept_to_one(client, asked, sampler_script):
    sampler_script.answer = 'CALL add {"a": 1}'
    sampler_script.calls = 2
    one = await client.messages.create(
        **asked(tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    )
    assert [block.type for block in one.content] == ["tool_use"]
    for choice, names in (({"type": "any"}, ["add", "multiply"]), ({"type": "tool", "name": "multiply"}, ["multiply"])):
        sampler_script.requests.clear()
        await client.messages.create(**asked(tools=TOOLS, tool_choice=choice))
        forced = sampler_script.requests[0].params.constraint.calls
        assert [tool["function"]["name"] for tool in forced.tools] == names
    await client.messages.create(**asked(tools=TOOLS, tool_choice={"type": "none"}))
    assert sampler_script.renders[-1].tools == []


async def test_what_claude_code_sends_is_served(client, asked, standing_model, sampler_script):
    marked = {"type": "ephemeral", "ttl": "1h"}
    text = {"type": "text", "text": "You are Claude Code.", "cache_control": marked}
    sent = asked(
        system=[{"type": "text", "text": "x-header: 1"}, text],
        messages=[{"role": "user", "content": [{"type": "text", "text": "<reminder>"}, {**text, "text": "12*3?"}]}],
        tools=[{**TOOLS[0], "type": "custom", "eager_input_streaming": True, "cache_control": marked}],
        metadata={"user_id": "u"},
        max_tokens=32_000,
        thinking={"type": "enabled", "budget_tokens": 31_999},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "medium"},
        betas=["claude-code-20250219", "interleaved-thinking-2025-05-14"],
    )
    async with client.beta.messages.stream(**sent) as stream:
        assert (await stream.get_final_message()).content[0].text == "36"
    rendered = sampler_script.renders[-1]
    assert [message["content"] for message in rendered.messages] == [
        "x-header: 1\nYou are Claude Code.",
        "<reminder>\n12*3?",
    ]
    assert rendered.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "medium"}
    count = await client.beta.messages.count_tokens(
        model=standing_model["model_name"], system=sent["system"], messages=sent["messages"], tools=sent["tools"]
    )
    assert count.input_tokens == len("<system>x-header: 1\nYou are Claude Code.<user><reminder>\n12*3?<assistant>")


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": {}}]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"extra_body": {"temprature": 1}}, "did you mean temperature"),
    "a picture": (
        {"messages": [{"role": "user", "content": [PICTURE]}]},
        r"content\[0\] is a picture, and 'org/Tiny-Base'",
    ),
    "a picture as a result": (
        {
            "messages": [
                USER,
                CALL,
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}]},
            ]
        },
        r"messages\[2\].content\[0\].content\[0\] is a picture, and 'org/Tiny-Base'",
    ),
    "a vendor's tool": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124', which is the vendor"),
    "a tool whose strict is a text": ({"tools": [{**TOOLS[0], "strict": "yes"}]}, r"tools\[0\].strict must be true"),
    "a tool whose description is a number": ({"tools": [{**TOOLS[0], "description": 7}]}, r"tools\[0\].description"),
    "a tool to be found later": ({"tools": [{**TOOLS[0], "defer_loading": True}]}, r"tools\[0\].defer_loading"),
    "a prefix of the answer": ({"messages": [USER, {"role": "assistant", "content": "3"}]}, "cannot write on"),
    "hidden thinking": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}, USER]},
        "redacted_thinking",
    ),
    "a budget": ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget_tokens cannot be kept"),
    "a tool that is not there": ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "'x' is not in tools"),
    "a cleared context": (
        {"extra_body": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}},
        r"context_management.edits\[0\]",
    ),
    "no room": ({"messages": [{"role": "user", "content": "x" * 600}]}, "prompt is too long"),
    "a schema that is none": (
        {"output_config": {"format": {"type": "json_schema", "schema": []}}},
        "output_config.format.schema is not a JSON schema",
    ),
    "a wrong number": ({"max_tokens": 0}, "max_tokens: should be greater"),
    "a block that is none": ({"messages": [{"role": "user", "content": [7]}]}, r"messages\[0\].content\[0\]"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_served_is_refused_by_name(case, client, asked, sampler_script):
    changes, sentence = REFUSED[case]
    with pytest.raises((anthropic.UnprocessableEntityError, anthropic.BadRequestError), match=sentence) as refused:
        await client.messages.create(**asked(**changes))
    assert refused.value.type == "invalid_request_error"
    assert "\n" not in refused.value.body["error"]["message"]
    assert not [request for request in sampler_script.requests if request.chat is None]


def test_every_field_of_the_api_is_served_or_neutral_or_refused():
    names = {
        name
        for params in (plain.MessageCreateParamsBase, beta.MessageCreateParamsBase, counted.MessageCountTokensParams)
        for name in params.__annotations__
    }
    sent_in_the_body = names - {"betas"}
    assert sent_in_the_body <= {*MessagesRequest.model_fields, *UNSERVED}


@pytest.mark.parametrize("written", ['{"a": "\\ud800"}', '{"a": NaN}', '{"a": 1e400}'])
async def test_arguments_that_no_input_can_hold_go_round_as_their_text(client, asked, sampler_script, written):
    sampler_script.answer = f"CALL add {written}"
    for stream in (False, True):
        if stream:
            async with client.messages.stream(**asked(tools=TOOLS)) as streamed:
                message = await streamed.get_final_message()
        else:
            message = await client.messages.create(**asked(tools=TOOLS))
        assert message.content[-1].input == {"INVALID_JSON": written}
    result = {"type": "tool_result", "tool_use_id": message.content[-1].id, "content": "no"}
    turn = [USER, message.to_param(), {"role": "user", "content": [result]}]
    await client.messages.create(**asked(tools=TOOLS, messages=turn))
    assert sampler_script.renders[-1].messages[1]["tool_calls"][0]["function"]["arguments"] == written


async def test_numbers_that_json_does_not_have_are_refused_by_name(asked, standing_team):
    content = f'{json.dumps(asked())[:-1]}, "metadata": {{"a": 1e400}}}}'
    headers = {"Content-Type": "application/json"}
    reply = await standing_team.http.post("/v1/messages", content=content, headers=headers)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith("metadata holds a number that is not finite")


async def test_refusals_are_exceptions_of_the_right_class(client, asked, sampler_script):
    with pytest.raises(anthropic.NotFoundError, match="headway upstreams add"):
        await client.messages.create(**asked(model="claude-haiku-4-5"))
    with pytest.raises(anthropic.AuthenticationError):
        await client.with_options(api_key="hw_nobody").messages.create(**asked())
    sampler_script.die_times, sampler_script.die_after_tokens = 4, 1
    with pytest.raises(anthropic.InternalServerError) as gone:
        await client.messages.create(**asked())
    assert gone.value.status_code == 503
    assert int(gone.value.response.headers["retry-after"]) > 0


async def test_a_stream_that_breaks_is_an_error_of_its_client(client, asked, sampler_script):
    sampler_script.die_times, sampler_script.die_after_tokens = 1, 2
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(**asked()) as stream:
            [text async for text in stream.text_stream]


async def test_a_client_that_hangs_up_ends_its_generation(client, asked, sampler_script):
    sampler_script.endless = True
    async with client.messages.stream(**asked(max_tokens=400)) as stream:
        async for _ in stream.text_stream:
            break
    async with asyncio.timeout(5):
        while not sampler_script.cancelled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_turns_of_a_rollout_go_on_from_the_ids_that_were_sampled_and_train_as_one(
    client, asked, team, base, sampler_script
):
    model, trace = await team.fork(str(base.id)), uuid.uuid4().hex
    own = client.with_options(api_key=team.key, default_headers={"Trace-Id": trace})
    sampler_script.answer = '<think>hm</think>CALL add {"a":1}'
    sent = {**asked(tools=TOOLS, system="Add."), "model": model["model_name"]}
    async with own.messages.stream(**sent) as stream:
        first = await stream.get_final_message()
    sampled = [*map(ord, "<system>Add.<user>12*3?<assistant>" + sampler_script.answer), END]
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "1"}
    # The client spells the arguments otherwise than they were sampled, and marks what its cache is to keep.
    sent["messages"] = [USER, first.to_param(), {"role": "user", "content": [{**result, "cache_control": None}]}]
    sampler_script.answer = "1"
    await own.messages.create(**sent)
    assert sampler_script.renders[-1].continued_ids == sampled
    edited = [*sent["messages"][:1], {"role": "assistant", "content": "no"}, USER]
    await own.messages.create(**{**sent, "messages": edited})
    assert sampler_script.renders[-1].continued_ids is None
    await team.http.post(f"/v2/trace/{trace}/exit", json={"status": "completed", "reward": 1.0})
    reply = await team.train(model["id"], "forward-backward", {"inputs": [trace]})
    assert (reply.status_code, reply.json()["num_datums"]) == (200, 2), reply.text


async def test_what_makes_a_recorded_turn_off_policy_is_said(client, asked):
    raw, warm = client.messages.with_raw_response, {"temperature": 0.5}
    plain = await raw.create(**asked(extra_body=warm))
    assert "x-headway-off-policy" not in plain.headers
    recorded = await raw.create(**asked(extra_body=warm), extra_headers={"Trace-Id": uuid.uuid4().hex})
    assert recorded.headers["x-headway-off-policy"] == "temperature"
    assert recorded.headers["x-headway-checkpoint"] == "base"
