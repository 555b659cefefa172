"""Answers are read as far as they can be, and nothing of them is lost."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sampler.chat.call_forms import HERMES, CallForm
from sampler.chat.json_objects import JsonObject
from sampler.chat.parsing import AnswerParser, Marks
from sampler.chat.reading import joined
from wire.sampling import ParsedMessage

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1,  "b":[2]}}\n</tool_call>'


LLAMA = CallForm(before='{"name": "', between='", "parameters": ', after="}")
MISTRAL = CallForm(
    '{"name": "', '", "arguments": ', "}", section_open="[TOOL_CALLS][", section_close="]", separator=", ", several=True
)
DEEPSEEK = CallForm(
    before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    between="\n```json\n",
    after="\n```<｜tool▁call▁end｜>",
    section_open="<｜tool▁calls▁begin｜>",
    section_close="<｜tool▁calls▁end｜>",
    separator="\n",
    several=True,
)
FORMS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "deepseek": DEEPSEEK}


def parse(pieces: list[str], form: CallForm | None = HERMES, *, opened: bool = False) -> ParsedMessage:
    parser = AnswerParser(Marks(form, frozenset({"add", "f"})), opened=opened)
    return joined([*(delta for piece in pieces for delta in parser.feed(piece)), *parser.end()])


def read(text: str, form: CallForm | None = HERMES, *, opened: bool = False):
    message = parse([text], form, opened=opened)
    return message.reasoning_content, message.content, [(call.name, call.arguments) for call in message.tool_calls]


def test_a_plain_answer_is_its_content():
    assert read(" 42\n") == (None, " 42\n", [])
    assert read("") == (None, "", [])


def test_a_tool_call_keeps_its_arguments_as_written_and_leaves_no_content():
    assert read(ADD) == (None, None, [("add", '{"a": 1,  "b":[2]}')])


def test_arguments_that_escape_half_a_surrogate_pair_are_kept_as_written():
    assert read('<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>')[2] == [
        ("add", '{"a": "\\ud800"}')
    ]


@pytest.mark.parametrize(
    "call", ['{"name": "\\ud800", "arguments": {}}', '{"name": "add", "arguments": "{\\"\\ud800\\": 1}"}']
)
def test_a_call_that_could_not_be_sent_stays_in_the_content(call):
    text = f"<tool_call>{call}</tool_call>"
    assert read(text) == (None, text, [])


def test_several_calls_and_the_words_before_them():
    message = read(f"Let me see.\n{ADD}\n{ADD}")
    assert message == (None, "Let me see.", [("add", '{"a": 1,  "b":[2]}')] * 2)


def test_without_tools_on_offer_a_call_is_content():
    assert read(ADD, None) == (None, ADD, [])


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {}, "name": "add"}', "{}"),
        ('{"name": "add"}', "{}"),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "add", "arguments": {"s": "\\u00fc \\n"}}', '{"s": "\\u00fc \\n"}'),
        ('{"name": "add", "arguments": null}', "{}"),
        ('{"name": "add", "arguments": ""}', "{}"),
        ('{"name": "add", "arguments": " \\n"}', "{}"),
        ('{"name": "add", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "add", "arguments": {"a": "</tool_call>"}}', '{"a": "</tool_call>"}'),
        ('{"name": "add", "arguments": {"a": "<tool_call>"}}', '{"a": "<tool_call>"}'),
        ('{"name": "add", "arguments": {"a": "\\"}</tool_call>{"}}', '{"a": "\\"}</tool_call>{"}'),
    ],
)
def test_shapes_of_calls_that_are_read(body, arguments):
    assert read(f"<tool_call>{body}</tool_call>") == (None, None, [("add", arguments)])


def test_a_last_call_without_its_end_is_read_if_it_is_whole():
    assert read(ADD.removesuffix("</tool_call>")) == (None, None, [("add", '{"a": 1,  "b":[2]}')])
    assert read(ADD[:-20]) == (None, ADD[:-20], [])


@pytest.mark.parametrize(
    "body",
    ["", "add(1)", "[]", '{"name": "add", "arguments": ', '{"name": 5, "arguments": {}}', '{"name": "add"} and more',
     '{"name": "add", "arguments": [1]}', '{"name": "add", "arguments": "x"}', '{"arguments": {}}', '{"name": ""}',
     '{"a" 1}', "{1: 2}", "{" * 5000, "[" * 100_000],
)  # fmt: skip
def test_a_malformed_call_stays_in_the_content_beside_those_that_are_read(body):
    broken = f"<tool_call>{body}</tool_call>"
    assert read(f"{broken}\n{ADD}") == (None, broken, [("add", '{"a": 1,  "b":[2]}')])
    assert read(broken) == (None, broken, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nhm\n</think>\n\n42", ("hm", "42", [])),
        ("hm\n</think>\n\n42", (None, "hm\n</think>\n\n42", [])),
        ("<think>\n\n</think>\n\n42", (None, "42", [])),
        ("<think>\nhm", ("hm", None, [])),
        ("<think>hm</think>", ("hm", None, [])),
        ("I write <think> and </think>.", (None, "I write <think> and </think>.", [])),
        ("I write <think>.", (None, "I write <think>.", [])),
        (f"<think>\nhm {ADD}\n</think>\n\n{ADD}", (f"hm {ADD}", None, [("add", '{"a": 1,  "b":[2]}')])),
    ],
)
def test_reasoning_is_set_apart(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I add.\n</think>\n\nAnswer 3", ("I add.", "Answer 3", [])),
        ("\nI add\n and add", ("I add\n and add", None, [])),
        ("</think>42", (None, "42", [])),
        ("<think>\nhm</think>42", ("hm", "42", [])),
        (f"hm {ADD}\n</think>\n{ADD}", (f"hm {ADD}", None, [("add", '{"a": 1,  "b":[2]}')])),
        ("a</think>b</think>c", ("a", "b</think>c", [])),
    ],
)
def test_what_comes_after_a_prompt_that_opened_the_reasoning_is_reasoning_up_to_its_end(text, expected):
    assert read(text, opened=True) == expected


CALLS = [("add", '{"a": "</tool_call>]}"}'), ("f", "{}")]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_calls_are_read_in_the_form_that_they_are_written_in(form):
    calls = CALLS if form.several else CALLS[:1]
    written = form.text_of(calls)
    assert read(written, form) == (None, None, calls)
    assert read(f"<think>\nhm\n</think>\n\n{written}", form) == ("hm", None, calls)
    if form is not LLAMA:
        assert read(f"Well.\n{written}\nSo.", form) == (None, "Well.So.", calls)
    cut = written[: len(written) // 3]
    assert read(cut, form) == (None, cut, [])


@pytest.mark.parametrize(
    "text", ['{"name": "other", "parameters": {}}', 'Well, {"name": "add"}', "{}", '{"a": 1}', "{"]
)
def test_json_by_itself_is_a_call_only_where_it_comes_first_and_names_a_tool_on_offer(text):
    assert read(text, LLAMA) == (None, text, [])


PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", ADD, "\n", " ", "hm", '{"name": "f", "arguments": ', "{}",
     "}", '"', "\\", "[", "]", ",", "<", "[TOOL_CALLS][", DEEPSEEK.section_open, DEEPSEEK.before, DEEPSEEK.between,
     DEEPSEEK.after, DEEPSEEK.section_close, '{"name": "add", "parameters": {}}', "add", "é😀"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text('ab{}[]<>/:,\\ \n"', max_size=30)


@example(' {"name": "add", "parameters": {}}', [1], LLAMA, False)
@given(TEXTS, st.lists(st.integers(0, 200), max_size=8), st.sampled_from([*FORMS.values(), None]), st.booleans())
def test_a_stream_in_any_pieces_is_the_whole_answer_and_nothing_is_lost(text, cuts, form, opened):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    whole = parse([text], form, opened=opened)
    assert parse(pieces, form, opened=opened) == parse(list(text), form, opened=opened) == whole
    for call in whole.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)
    if not whole.tool_calls:
        said = (whole.reasoning_content or "") + (whole.content or "")
        for tag in ("<think>", "</think>"):
            text, said = text.replace(tag, ""), said.replace(tag, "")
        assert said.replace("\n", "").strip() == text.replace("\n", "").strip()


@pytest.mark.parametrize(
    "piece", ["<tool_call>", '<tool_call>{"', '<tool_call>{"a":', '<tool_call>{"a":"\\"', "{", '{"']
)
def test_what_begins_like_a_call_again_and_again_is_read_once(piece, monkeypatch):
    taken = []
    take = JsonObject.take
    monkeypatch.setattr(JsonObject, "take", lambda self, character: (taken.append(character), take(self, character))[1])
    text = piece * 2_000
    assert read(text) == read(text, LLAMA) == (None, text, [])
    assert len(taken) < 6 * len(text)
