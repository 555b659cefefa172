"""Answers behind vLLM read the same whole and streamed, and as the other backends read them; vLLM's parsers are asked
for what is not read here, once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sampler.admission.prompt_limits import PromptLimits
from sampler.backends.vllm.answer import Answer
from sampler.backends.vllm.parsers import ChatFormat, Division, divide
from sampler.backends.vllm.reading import VllmReading
from sampler.chat.call_forms import HERMES
from sampler.chat.reading import SymbolReader, joined
from sampler.chat.text import ChatText
from sampler.vocabulary import Vocabulary
from tests.unit.sampler.test_call_forms import DEEPSEEK, GLM, LLAMA, QWEN, TOOLS, tokenizer_of
from wire.errors import InvalidRequest
from wire.sampling import DerenderRequest, GenerateRequest, ParsedMessage, ParseOptions, SamplingParams

THINKING = "{#- enable_thinking #}"


class Behind:
    """VllmReading over a tokenizer, with a stand-in for vLLM's derender route: it reads `<tool_call>name…</tool_call>`,
    and takes an answer without `</think>` for reasoning."""

    def __init__(self, template: str, tool_call: str | None = None, reasoning: str | None = None) -> None:
        self.tokenizer = tokenizer_of(template)
        self.vocabulary = Vocabulary(self.tokenizer)
        self.chat_text = ChatText("", self.tokenizer, PromptLimits(4096, self.vocabulary.longest))
        chat = ChatFormat(template, "", "qwen3", {"<think>", "</think>"})
        self.division = divide(tool_call, reasoning, chat, self.chat_text.calls)
        eos_ids = frozenset({self.tokenizer.eos_token_id})
        self.reading = VllmReading(self.chat_text, self.vocabulary, eos_ids, self.division, self.derender)
        self.asked: list[str] = []
        self.arguments: str | None = "{}"

    async def derender(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["generate_response"]["choices"][0]["token_ids"]
        self.asked.append(text := self.tokenizer.decode(ids))
        thought, ended, rest = text.partition("</think>")
        if "odd" in rest:
            raise InvalidRequest("odd tools")
        names = re.findall("<tool_call>(add|multiply)[^<]*(?:<arg.*?)?</tool_call>", rest)
        calls = [{"function": {"name": name, "arguments": self.arguments}} for name in names]
        message = {"reasoning": thought if ended else text, "content": rest.partition("<tool_call>")[0]}
        return {"choices": [{"message": {**message, "tool_calls": calls}}]}

    async def read(self, text: str, prompt: str = "", **reading: Any) -> ParsedMessage:
        """The whole answer, which is also what its streams say, in events as vLLM's chunks give them."""
        reading = {"tools": TOOLS, **reading}
        ids, prompt_ids = self.ids(text), self.ids(prompt)
        answer = DerenderRequest(token_ids=ids, text=text, prompt_token_ids=prompt_ids, **reading)
        whole = await self.reading.derender(answer)
        for step in (1, 2, 7):
            assert await self.streamed(ids, prompt_ids, ParseOptions(**reading), step) == whole
        return whole

    async def streamed(self, ids: list[int], prompt: list[int], reading: ParseOptions, step: int) -> ParsedMessage:
        request = GenerateRequest(adapter="a", prompt_token_ids=prompt, params=SamplingParams(max_tokens=len(ids)))
        vllm, reader = Answer(request, self.vocabulary, limit=len(ids), stop_ids=frozenset()), []
        reads = self.reading.reader(request, reading)
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            logprobs = {"content": [{"logprob": -1.0, "top_logprobs": []}] * len(piece)}
            reader += await reads.take(vllm.take({"token_ids": piece, "logprobs": logprobs, "finish_reason": None}))
        return joined(reader)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def behind(template: str, **named: str) -> Behind:
    return Behind(template + THINKING, **named)


def said(message: ParsedMessage):
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.reasoning_content, message.content, calls


CALL = '<tool_call>\n{{"name": "add", "arguments": {}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("<think>\n", "I add.\n</think>\n\n3", ("I add.", "3", [])),
        ("<think>\n", "I add", ("I add", None, [])),
        ("<think>\n\n</think>\n\n", "3", (None, "3", [])),
        ("", "<think>\nI add.\n</think>\n\n3", ("I add.", "3", [])),
        ("", "I add.\n</think>\n\n3", (None, "I add.\n</think>\n\n3", [])),
        ("<think>\n", "a</think>b</think>c", ("a", "b</think>c", [])),
        ("", CALL.format("null"), (None, None, [("add", "{}")])),
        ("", CALL.format('""'), (None, None, [("add", "{}")])),
        ("", CALL.format('{"a": "</tool_call>"}'), (None, None, [("add", '{"a": "</tool_call>"}')])),
        ("<think>\n", f"a</think>{CALL.format('{}')}", ("a", None, [("add", "{}")])),
        ("", "5 <tool_call>", (None, "5 <tool_call>", [])),
        ("", CALL.format("[1]"), (None, CALL.format("[1]"), [])),
    ],
)
async def test_what_is_known_here_is_read_here_whole_and_streamed(prompt, text, expected):
    base = behind(QWEN)
    assert said(await base.read(text, prompt)) == expected
    local = SymbolReader(base.vocabulary, HERMES, base.ids(prompt), ParseOptions(tools=TOOLS))
    assert said(joined(local.read(base.ids(text), text, ended=True))) == expected
    assert not base.asked


ADD = "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"


@pytest.mark.parametrize(
    ("prompt", "text", "expected", "num_asked"),
    [
        ("", f"Well.\n{ADD}", (None, "Well.", [("add", "{}")]), 1),
        ("", ADD * 2, (None, None, [("add", "{}")] * 2), 1),
        ("<think>", f"hm {ADD}</think>Well.\n{ADD}", (f"hm {ADD}", "Well.", [("add", "{}")]), 1),
        ("<think>", f"hm {ADD}", (f"hm {ADD}", None, []), 0),
        ("", "Well. 1 < 2", (None, "Well. 1 < 2", []), 0),
        ("", "Well.\n <tool_call>sub</tool_call> ", (None, "Well.\n <tool_call>sub</tool_call> ", []), 1),
        ("", "Well. <tool", (None, "Well. <tool", []), 0),
        ("", f"odd {ADD}", (None, f"odd {ADD}", []), 1),
        ("", f"I\n</think>\n{ADD}", (None, "I\n</think>", [("add", "{}")]), 1),
    ],
)
@pytest.mark.parametrize("arguments", ["{}", None, "null", '""', " "])
async def test_calls_in_other_forms_are_read_by_vllm_once_whole_and_streamed(
    prompt, text, expected, num_asked, arguments
):
    base = behind(GLM)
    base.arguments = arguments
    assert said(await base.read(text, prompt)) == expected
    assert len(base.asked) == 4 * num_asked
    assert all(asked.count("</think>") >= 1 for asked in base.asked), "or it would be taken for reasoning"


async def test_without_tools_on_offer_vllm_is_not_asked():
    base = behind(GLM)
    for reading in ({"tools": []}, {"tool_choice": "none"}):
        assert said(await base.read(f"Well. {ADD}", **reading)) == (None, f"Well. {ADD}", [])
    assert not base.asked


async def test_what_comes_before_a_call_does_not_wait_for_vllm():
    base = behind(GLM)
    request = GenerateRequest(adapter="a", params=SamplingParams(max_tokens=9))
    reader = base.reading.reader(request, ParseOptions(tools=TOOLS))
    vllm = Answer(request, base.vocabulary, limit=99, stop_ids=frozenset())
    ids = base.ids("<think>a</think>b")
    logprobs = {"content": [{"logprob": -1.0, "top_logprobs": []}] * len(ids)}
    deltas = await reader.take(vllm.take({"token_ids": ids, "logprobs": logprobs, "finish_reason": None}))
    assert said(joined(deltas)) == ("a", "b", [])


async def test_a_named_parser_reads_the_calls_and_the_reasoning_stays_ours():
    base = behind(QWEN, tool_call="xlam")
    expected = ("a", None, [("add", "{}")])
    assert said(await base.read("<think>a</think><tool_call>add</tool_call>")) == expected
    assert said(await base.read("3")) == (None, "3", [])


async def test_a_named_parser_of_foreign_reasoning_reads_all_at_the_end():
    base = behind(QWEN, reasoning="granite")
    assert said(await base.read("hm</think>3")) == ("hm", "3", [])
    assert said(await base.read("3")) == (None, "3", []), "no mark of reasoning"


async def test_none_leaves_its_part_as_it_is():
    assert said(await behind(QWEN, reasoning="none").read("<think>a</think>b")) == (None, "<think>a</think>b", [])
    assert said(await behind(QWEN, reasoning="none").read("b</think>", "<think>")) == (None, "b</think>", [])
    written = CALL.format("{}")
    assert said(await behind(QWEN, tool_call="none").read(written)) == (None, written, [])


@pytest.mark.parametrize(
    ("template", "tool_call", "is_known"),
    [
        (QWEN, None, True),
        (QWEN, "hermes", True),
        (QWEN, "granite", False),
        (LLAMA, None, True),
        (DEEPSEEK, None, True),
        (GLM, None, False),
        (GLM, "hermes", False),
    ],
)
def test_calls_are_read_here_where_the_template_shows_their_form_and_no_other_parser_was_named(
    template, tool_call, is_known
):
    division = Behind(template, tool_call).division
    assert (division.form is not None, division.unread is None) == (is_known, is_known)


def test_a_template_that_writes_calls_by_their_ids_is_left_to_its_parser():
    kimi = "{{ tools }}<|tool_calls_section_begin|>{% for m in messages %}{{ m.content }}{% endfor %}"
    assert Behind(kimi).division == Division(None, unread=("<|tool_calls_section_begin|>",))
