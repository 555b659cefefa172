"""Answers are read as far as they can be, and nothing of them is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampler.parsing import parse_answer

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1,  "b":[2]}}\n</tool_call>'


def read(text: str, *, tools_offered: bool = True):
    message = parse_answer(text, tools_offered=tools_offered)
    return message.reasoning_content, message.content, [(call.name, call.arguments) for call in message.tool_calls]


def test_a_plain_answer_is_its_content():
    assert read(" 42\n") == (None, " 42\n", [])
    assert read("") == (None, "", [])


def test_a_tool_call_keeps_its_arguments_as_written_and_leaves_no_content():
    assert read(ADD) == (None, None, [("add", '{"a": 1,  "b":[2]}')])


def test_several_calls_and_the_words_before_them():
    message = read(f"Let me see.\n{ADD}\n{ADD}")
    assert message == (None, "Let me see.", [("add", '{"a": 1,  "b":[2]}')] * 2)


def test_without_tools_on_offer_a_call_is_content():
    assert read(ADD, tools_offered=False) == (None, ADD, [])


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {}, "name": "add"}', "{}"),
        ('{"name": "add"}', "{}"),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"name": "add", "arguments": {"s": "\\u00fc \\n"}}', '{"s": "\\u00fc \\n"}'),
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
        ("hm\n</think>\n\n42", ("hm", "42", [])),
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


@given(st.text('ab{}[]":,\\ \n', max_size=40), st.booleans())
def test_no_answer_makes_the_reader_fail(text, tools_offered):
    call = f'<tool_call>{{"name":"f","arguments":{text}'
    for wrapped in (text, call, f"<tool_call>{text}</tool_call>", f"<think>{text}"):
        for parsed in parse_answer(wrapped, tools_offered=tools_offered).tool_calls:
            assert isinstance(json.loads(parsed.arguments), dict)
