"""Real tokenizers and chat templates through the local sampler: prompts, turns that continue, calls, constraints,
streams. `make test-slow` downloads the tokenizers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from sampler.chat.reading import joined
from tests.families.conftest import Base
from tests.ports.sampler_backends import ask_backend, asking
from wire.sampling import DerenderRequest, MessageDelta, ParsedMessage, ParseOptions, RenderRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a base of 262,000 tokens takes a while to make

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Zürich", "東京"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Of a city", "parameters": PARAMETERS}}
    for name in ("get_weather", "get_time")
]
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is the weather in Zürich 🏔?\n\n  12345"}
AGAIN = {"role": "user", "content": "And now?"}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "content": '{"temperature": 5}'}
READING = ParseOptions(tools=TOOLS)
SCHEMA = {
    "type": "object",
    "properties": {"word": {"enum": ["grüße", "🏔 a  b"]}, "count": {"type": "integer", "maximum": 9}},
    "required": ["word", "count"],
    "additionalProperties": False,
}


async def rendered(base: Base, messages: list[dict[str, Any]], **changes: Any) -> list[int]:
    return (await base.backend.render(RenderRequest(messages=messages, **changes))).token_ids


async def continued(base: Base, ids: list[int], *messages: dict[str, Any], **changes: Any) -> list[int]:
    """The prompt of the next turn, behind these ids of a question and its answer."""
    chat = [USER, {"role": "assistant", "content": "?"}, *messages]
    ids_of_next = await rendered(base, chat, continued_ids=ids, continued_messages=2, **changes)
    assert ids_of_next[: len(ids)] == ids
    return ids_of_next[len(ids) :]


@pytest.mark.parametrize("text", ["Grüße aus 東京 🏔️\n\n\n  1234567 +  x=1;\tend\r\n", "  leading", "a   b    c"])
async def test_bytes_of_tokens_make_the_text(base: Base, text: str):
    vocabulary = base.backend._vocabulary
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(vocabulary.bytes_of, ids)).decode() == text


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        ([USER], []),
        ([SYSTEM, USER], []),
        ([SYSTEM, USER, {"role": "assistant", "content": "5 °C."}, AGAIN], []),
        ([SYSTEM, USER], TOOLS),
    ],
)
async def test_a_prompt_is_what_apply_chat_template_makes(base: Base, messages: Any, tools: Any):
    expected = base.tokenizer.apply_chat_template(
        messages, tools=tools or None, add_generation_prompt=True, return_dict=False
    )
    ids = await rendered(base, messages, tools=tools)
    assert ids == expected
    assert base.family.tools_are_shown is (
        "get_weather" in base.tokenizer.decode(await rendered(base, [USER], tools=TOOLS))
    )


async def test_calls_and_results_of_a_history_are_shown(base: Base):
    ids = await rendered(base, [USER, CALLING, RESULT, {"role": "assistant", "content": "5 °C."}, AGAIN], tools=TOOLS)
    text = base.tokenizer.decode(ids)
    told = [text.index(said, text.index("12345")) for said in ("get_weather", "Zürich", "temperature", "5 °C.", "now?")]
    assert told == sorted(told)


async def test_a_call_as_its_template_takes_it_makes_the_same_ids(base: Base):
    if not base.family.calls_are_shown:
        text = base.tokenizer.decode(await rendered(base, [USER, CALLING, RESULT]))
        assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>' in text
        assert '<tool_response>\n{"temperature": 5}\n</tool_response>' in text
        return
    as_text = base.family.name == "deepseek_v3"
    arguments: Any = '{"city": "Zürich"}' if as_text else {"city": "Zürich"}
    content = None if as_text else ""  # which apply_chat_template drops, and this template asks for
    own = {
        **CALLING,
        "content": content,
        "tool_calls": [{**CALL, "function": {**CALL["function"], "arguments": arguments}}],
    }
    text = _compile_jinja_template(base.tokenizer.chat_template).render(
        messages=[USER, own, RESULT], tools=TOOLS, add_generation_prompt=True, **base.tokenizer.special_tokens_map
    )
    expected = base.tokenizer.encode(text, add_special_tokens=False)
    assert await rendered(base, [USER, CALLING, RESULT], tools=TOOLS) == expected


async def test_a_sampled_turn_is_continued_with_its_very_ids(base: Base):
    prompt = await rendered(base, [USER])
    answer = await ask_backend(base.backend, prompt, max_tokens=12, seed=1, ignore_eos=True)
    behind = await continued(base, [*prompt, *answer.ids], AGAIN)
    text = base.tokenizer.decode(behind)
    assert "And now?" in text
    assert behind[0] in base.tokenizer.all_special_ids or text.startswith("<")
    whole = await rendered(base, [USER, {"role": "assistant", "content": "x"}, AGAIN])
    assert whole[-len(behind) :] == behind


async def test_whatever_ends_a_turn_ends_it_once(base: Base):
    prompt = await rendered(base, [USER])
    words = base.tokenizer.encode("5 °C.", add_special_tokens=False)
    cut_off = await continued(base, [*prompt, *words], AGAIN)
    for token in base.family.end_tokens:
        end_id = base.tokenizer.convert_tokens_to_ids(token)
        assert await continued(base, [*prompt, *words, end_id], AGAIN) == cut_off[1:], token


async def test_a_forced_call_is_written_read_answered_and_continued(base: Base):
    prompt = await rendered(base, [USER], tools=TOOLS)
    constraint = {"calls": {"tools": TOOLS, "single": True}}
    for seed in range(3):
        answer = await ask_backend(base.backend, prompt, constraint=constraint, seed=seed, max_tokens=200)
        assert answer.finish_reason == "stop"
        request = DerenderRequest(token_ids=answer.ids, text=answer.text, prompt_token_ids=prompt, **dict(READING))
        message = await base.backend.derender(request)
        (call,) = message.tool_calls
        assert call.name in ("get_weather", "get_time")
        assert json.loads(call.arguments)["city"] in ("Zürich", "東京")
        assert await streamed(base, prompt, constraint, seed) == message
        called = {**CALL, "function": {"name": call.name, "arguments": call.arguments}}
        chat = [USER, {**CALLING, "tool_calls": [called]}, RESULT]
        ids = [*prompt, *answer.ids]
        following = await rendered(base, chat, tools=TOOLS, continued_ids=ids, continued_messages=2)
        assert following[: len(ids)] == ids
        behind = base.tokenizer.decode(following[len(ids) :])
        assert "temperature" in behind
        whole = base.tokenizer.decode(await rendered(base, chat, tools=TOOLS))
        assert whole.endswith(behind)


async def streamed(base: Base, prompt: list[int], constraint: Any, seed: int) -> ParsedMessage:
    """The message as its stream says it."""
    request = asking(prompt, constraint=constraint, seed=seed, max_tokens=200)
    reader, deltas = base.backend.reader(request, READING), list[MessageDelta]()
    async for event in base.backend.generate(request):
        deltas += await reader.take(event)
    return joined(deltas)


async def test_an_answer_keeps_to_a_json_schema_and_a_regex(base: Base):
    prompt = await rendered(base, [USER])
    for seed in range(3):
        answer = await ask_backend(
            base.backend, prompt, constraint={"json_schema": SCHEMA}, seed=seed, max_tokens=200, temperature=0.8
        )
        assert answer.finish_reason == "stop"
        value = json.loads(answer.text)
        assert value["word"] in SCHEMA["properties"]["word"]["enum"]
        fixed = await ask_backend(base.backend, prompt, constraint={"regex": "(ja|nein)  [0-9]{3} 🏔"}, seed=seed)
        assert fixed.finish_reason == "stop"
        assert fixed.text.split("  ")[0] in ("ja", "nein")
        assert fixed.text.endswith(" 🏔")


async def test_text_that_streams_is_the_text_of_all_tokens(base: Base):
    prompt = await rendered(base, [USER])
    for seed in range(4):
        answer = await ask_backend(base.backend, prompt, seed=seed, max_tokens=60, temperature=1.5, ignore_eos=True)
        vocabulary = base.backend._vocabulary
        whole = b"".join(map(vocabulary.bytes_of, answer.ids)).decode(errors="replace")
        assert answer.text.rstrip("\ufffd") == whole.rstrip("\ufffd")
        decoded = base.tokenizer.decode(answer.ids, skip_special_tokens=True)
        assert answer.text.rstrip("\ufffd") == decoded.rstrip("\ufffd")
