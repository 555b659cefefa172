"""Answers read here and by vLLM's own parsers, whole and as they come; answers of a form; the same text in and out."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import numpy as np
import pytest

from sampler.backends.vllm.parsers import Division
from sampler.backends.vllm.reading import VllmReading
from sampler.backends.vllm.routes import RENDER
from sampler.chat.reading import joined
from sampler.vocabulary import Vocabulary
from tests.ports.sampler_backends import ask_backend
from wire.errors import InvalidRequest
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    MessageDelta,
    ParsedMessage,
    ParseOptions,
    RenderRequest,
    SampledTokens,
    SamplingParams,
)

pytestmark = pytest.mark.vllm

PROMPT = [11, 12, 13, 14, 15]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": SCHEMA}}
    for name in ("add", "multiply")
]
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'
CALL = ("add", {"a": 1, "b": [2]})

# text, tools on offer, template kwargs → reasoning, content, calls
READ: dict[str, tuple[str, bool, dict, str | None, str | None, list]] = {
    "plain": ("42", False, {}, None, "42", []),
    "reasoning": ("<think>\nhm\n</think>\n\n42", False, {}, "hm", "42", []),
    "reasoning alone": ("<think>\nhm", False, {}, "hm", None, []),
    "call": (ADD, True, {}, None, None, [CALL]),
    "two calls": (f"Let me see.\n{ADD}\n{ADD}", True, {"enable_thinking": False}, None, "Let me see.", [CALL, CALL]),
    "reasoning and call": (f"<think>hm</think>{ADD}", True, {}, "hm", None, [CALL]),
    "no tools on offer": (ADD, False, {}, None, ADD, []),
    "no call": ("<tool_call>add(1)</tool_call>", True, {}, None, "<tool_call>add(1)</tool_call>", []),
    "a call cut off": (ADD[:-20], True, {}, None, ADD[:-20], []),
    "words, then a call cut off": (
        f"Well. {ADD[:30]}",
        True,
        {"enable_thinking": False},
        None,
        f"Well. {ADD[:30]}",
        [],
    ),
    "half a mark": ("5 <tool", True, {}, None, "5 <tool", []),
    "letters of several bytes": ("ö€𝄞", True, {}, None, "ö€𝄞", []),
}


@pytest.fixture(params=["read here", "calls by vLLM", "all by vLLM"])
def reads(request, backend):
    """Whatever may read answers: as this base is read, or with its parsers named."""
    divisions = {
        "calls by vLLM": Division(None, unread=("<tool_call>",)),
        "all by vLLM": Division(None, all_by_vllm=True),
    }
    if request.param not in divisions:
        return backend
    eos_ids = frozenset(backend.info.eos_ids)
    chat_text, division = backend._chat_text, divisions[request.param]
    return VllmReading(chat_text, backend._vocabulary, eos_ids, division, backend._post)


def tidy(text: str | None) -> str | None:
    return (text or "").strip() or None


@pytest.mark.parametrize("case", READ)
async def test_what_can_be_read_is_and_the_rest_is_content_whole_and_streamed(case, reads, backend, tokenizer):
    text, offered, kwargs, reasoning, content, calls = READ[case]
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    reading = ParseOptions(tools=TOOLS if offered else [], chat_template_kwargs=kwargs)
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text=text, **dict(reading)))
    assert (tidy(parsed.reasoning_content), tidy(parsed.content)) == (reasoning, content)
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == calls
    assert await read_in_pieces(reads, backend._vocabulary, ids, reading) == parsed


async def read_in_pieces(
    reads, vocabulary: Vocabulary, ids: list[int], reading: ParseOptions, prompt: list[int] = PROMPT
) -> ParsedMessage:
    """A reader's deltas put together; the answer comes three tokens at a time."""
    request = GenerateRequest(adapter="base", prompt_token_ids=prompt, params=SamplingParams())
    reader, deltas, data = reads.reader(request, reading), list[MessageDelta](), b""
    for start in range(0, len(ids), 3):
        said = data.decode(errors="ignore")
        data += b"".join(vocabulary.bytes_of(token_id) for token_id in ids[start : start + 3])
        new = data.decode(errors="ignore")[len(said) :]
        piece = ids[start : start + 3]
        tokens = SampledTokens(piece, [""] * len(piece), [0.0] * len(piece))
        reason = "stop" if start + 3 >= len(ids) else None
        deltas += await reader.take(GenerateEvent(tokens=tokens, text=new, finish_reason=reason))
    return joined(deltas)


OPENED = [
    ("I add.\n</think>\n\n3", "I add.", "3", []),
    ("I add", "I add", None, []),
    ("</think>3", None, "3", []),
    (f"hm</think>{ADD}", "hm", None, [CALL]),
    ('hm</think><tool_call>{"name": "add", "arguments": {}}</tool_call>', "hm", None, [("add", {})]),
]
EMPTY = ["null", '""', "{}"]


@pytest.mark.parametrize(("text", "reasoning", "content", "calls"), OPENED)
async def test_after_a_prompt_that_opened_it_an_answer_is_reasoning_whole_and_streamed(
    text, reasoning, content, calls, reads, backend, tokenizer
):
    if getattr(reads, "_division", None) == Division(None, all_by_vllm=True):
        pytest.skip("vLLM's parsers do not look at the prompt")
    ids, prompt = (tokenizer.encode(part, add_special_tokens=False) for part in (text, "<think>\n"))
    reading = ParseOptions(tools=TOOLS)
    request = DerenderRequest(token_ids=ids, text=text, prompt_token_ids=prompt, **dict(reading))
    parsed = await reads.derender(request)
    assert (tidy(parsed.reasoning_content), tidy(parsed.content)) == (reasoning, content)
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == calls
    assert await read_in_pieces(reads, backend._vocabulary, ids, reading, prompt) == parsed


@pytest.mark.parametrize("arguments", EMPTY)
async def test_empty_arguments_are_an_empty_object_whole_and_streamed(arguments, reads, backend, tokenizer):
    text = f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'
    ids, reading = tokenizer.encode(text, add_special_tokens=False), ParseOptions(tools=TOOLS)
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text=text, **dict(reading)))
    assert [(call.name, call.arguments) for call in parsed.tool_calls] == [("add", "{}")]
    assert await read_in_pieces(reads, backend._vocabulary, ids, reading) == parsed


async def test_a_stream_gives_reasoning_and_content_before_its_end(backend, tokenizer):
    text = f"<think>{'one two three ' * 10}</think>{'four five six ' * 10}{ADD}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    request = GenerateRequest(adapter="base", prompt_token_ids=PROMPT, params=SamplingParams())
    reader = backend.reader(request, ParseOptions(tools=TOOLS))
    kinds = []
    for position, token_id in enumerate(ids):
        event = GenerateEvent(tokens=SampledTokens([token_id], [""], [0.0]), text=backend._vocabulary.text_of(token_id))
        event.finish_reason = "stop" if position == len(ids) - 1 else None
        for delta in await reader.take(event):
            kinds += [name for name in ("reasoning_content", "content", "tool_calls") if getattr(delta, name)]
    assert kinds.count("reasoning_content") > 10
    assert kinds.count("content") > 10
    assert "tool_calls" in kinds


async def test_what_a_stop_string_cut_off_is_not_read(reads, tokenizer):
    ids = tokenizer.encode(f"42{ADD} and more", add_special_tokens=False)
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text=f"42{ADD} a", tools=TOOLS))
    assert [call.name for call in parsed.tool_calls] == ["add"]
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text="42<tool", tools=TOOLS))
    assert (parsed.content, parsed.tool_calls) == ("42<tool", [])
    us = tokenizer.encode("bus", add_special_tokens=False)
    assert len(us) == 2
    parsed = await reads.derender(DerenderRequest(token_ids=us, text="bu", tools=TOOLS))
    assert parsed.content == "bu"


async def test_control_tokens_that_no_parser_wanted_are_no_text(reads, tokenizer):
    ids = [*tokenizer.encode("4", add_special_tokens=False), tokenizer.eos_token_id] * 2
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text="44", tools=TOOLS))
    assert parsed.content == "44"
    nothing = await reads.derender(DerenderRequest(token_ids=ids[1:2], text="", tools=TOOLS))
    assert nothing.content == ""


@pytest.mark.parametrize("tools", [[{"type": "function", "function": {"name": "f", "parameters": 7}}], [{"odd": 1}]])
async def test_tools_that_vllm_does_not_take_leave_the_answer_as_it_is(reads, backend, tokenizer, tools):
    if reads is backend:
        pytest.skip("vLLM is not asked")
    ids = tokenizer.encode(ADD, add_special_tokens=False)
    parsed = await reads.derender(DerenderRequest(token_ids=ids, text=ADD, tools=tools))
    assert (parsed.content, parsed.tool_calls) == (ADD, [])
    assert await read_in_pieces(reads, backend._vocabulary, ids, ParseOptions(tools=tools)) == parsed


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"choice": ["yes", 'n"ö\n']}, 'yes|n"ö\n'),
        ({"json_schema": {"enum": ["x", 3, None]}}, '"x"|3|null'),
        ({"grammar": 'start: "a" "b"? "c"'}, "ab?c"),
    ],
)
async def test_an_answer_is_of_the_form_and_ends_when_it_is_complete(backend, constraint, form):
    asked = (ask_backend(backend, PROMPT, seed=seed, max_tokens=50, constraint=constraint) for seed in range(6))
    for answer in await asyncio.gather(*asked):
        assert re.fullmatch(form, answer.text), answer.text
        assert answer.finish_reason == "stop"


async def test_logprobs_are_of_what_the_form_allowed(backend, tokenizer):
    digits = set(tokenizer.encode("0123456789", add_special_tokens=False))
    constraint = {"regex": "[0-9]{4}"}
    answer = await ask_backend(backend, PROMPT, adapter="all-targets", top_logprobs=10, constraint=constraint)
    free = await ask_backend(backend, PROMPT, adapter="all-targets", top_logprobs=20, max_tokens=1)
    for tops in answer.tokens.top_logprobs[:4]:
        assert {top.token_id for top in tops} == digits
        assert np.exp([top.logprob for top in tops]).sum() == pytest.approx(1.0, abs=1e-4)
    shown = {top.token_id: top.logprob for top in free.tokens.top_logprobs[0]}
    gaps = [top.logprob - shown[top.token_id] for top in answer.tokens.top_logprobs[0] if top.token_id in shown]
    assert np.ptp(gaps) < 1e-4 if gaps else True, "the model's own, up to the mass that was allowed"
    assert answer.logprobs[4] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("single", [True, False])
async def test_forced_calls_are_in_the_bases_own_format_and_are_read(backend, single):
    tools = TOOLS[:1] if single else TOOLS
    kwargs = {"enable_thinking": False}
    chat = RenderRequest(messages=[{"role": "user", "content": "?"}], chat_template_kwargs=kwargs)
    prompt = (await backend.render(chat)).token_ids
    constraint = {"calls": {"tools": tools, "single": single}, "after_reasoning": kwargs}
    asked = [ask_backend(backend, prompt, seed=seed, max_tokens=300, constraint=constraint) for seed in range(6)]
    answers = await asyncio.gather(*asked)
    assert all(answer.text.startswith("<tool_call>") for answer in answers)
    ended = [answer for answer in answers if answer.finish_reason == "stop"]
    for answer in ended:
        reading: dict[str, Any] = {"tools": tools, "tool_choice": "required", "chat_template_kwargs": kwargs}
        parsed = await backend.derender(DerenderRequest(token_ids=answer.ids, text=answer.text, **reading))
        assert parsed.content is None
        assert len(parsed.tool_calls) == 1 if single else parsed.tool_calls
        for call in parsed.tool_calls:
            assert call.name in ("add", "multiply")
            assert json.loads(call.arguments)["a"] in (1, 2)


@pytest.mark.parametrize("forced", [False, True], ids=["schema", "call"])
async def test_however_random_a_policy_is_it_writes_few_blanks_and_ends(backend, forced):
    constraint = {"calls": {"tools": TOOLS[:1], "single": True}} if forced else {"json_schema": SCHEMA}
    asked = (
        ask_backend(backend, PROMPT, seed=seed, max_tokens=300, temperature=2.0, constraint=constraint)
        for seed in range(8)
    )
    for answer in await asyncio.gather(*asked):
        assert answer.finish_reason == "stop", answer.text
        assert not re.search(r"\s{17}", answer.text)


async def test_reasoning_is_free_and_comes_first(backend):
    """The prompt leaves the reasoning open, so whatever this random model writes is reasoning."""
    chat = RenderRequest(messages=[{"role": "user", "content": "?"}])
    prompt = (await backend.render(chat)).token_ids
    constraint = {"regex": "[0-9]{3}", "after_reasoning": {}}
    answer = await ask_backend(backend, prompt, seed=1, max_tokens=20, ignore_eos=True, constraint=constraint)
    assert len(answer.ids) == 20


NONSENSE = {
    "type": {"json_schema": {"type": "nonsense"}},
    "remote reference": {"json_schema": {"$ref": "http://nowhere/schema"}},
    "dangling reference": {"json_schema": {"$ref": "#/nowhere"}},
    "endless reference": {"json_schema": {"$ref": "#"}},
    "pattern": {"json_schema": {"type": "string", "pattern": "("}},
    "contradiction": {"json_schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}},
    "regex": {"regex": "("},
    "regex that looks back": {"regex": "(a)\\1"},
    "huge regex": {"regex": "((((a{100}){100}){100}){100}){100}"},
    "huge array": {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}},
    "grammar": {"grammar": "root ::= nonsense"},
    "tools": {"calls": {"tools": [{"type": "function", "function": {"name": "f", "parameters": 7}}]}},
    "schema of a tool": {
        "calls": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "odd"}}}]}
    },
}


@pytest.mark.parametrize("case", NONSENSE)
async def test_nonsense_is_refused_or_kept_to_and_never_kills_the_engine(case, backend):
    constraint = NONSENSE[case]
    try:
        async with asyncio.timeout(60):
            answer = await ask_backend(backend, PROMPT, max_tokens=5, constraint=constraint)
        print(case, "was kept to:", repr(answer.text))
    except InvalidRequest as refused:
        print(case, "was refused:", refused.message[:200])
    assert (await ask_backend(backend, PROMPT, max_tokens=3, ignore_eos=True)).finish_reason == "length"


async def test_prompts_are_those_that_vllm_renders(backend):
    """Ours continue an answer from its sampled ids, which vLLM's route cannot; but for that they are the same."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    chats: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "ö€𝄞?"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [
            {"role": "user", "content": "sum"},
            {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ],
    ]
    tool = {"type": "function", "function": {"name": "f", "description": "ö", "parameters": {"type": "object"}}}
    for messages in chats:
        for tools in ([], [tool]):
            for kwargs in ({}, {"enable_thinking": False}):
                ours = (
                    await backend.render(RenderRequest(messages=messages, tools=tools, chat_template_kwargs=kwargs))
                ).token_ids
                body = {"messages": messages, "chat_template_kwargs": kwargs, "max_tokens": 1}
                theirs = await backend._post(RENDER, {**body, "tools": tools} if tools else body)
                assert ours == theirs["token_ids"]
