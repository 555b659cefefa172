"""Messages to ids, and continuations that keep the ids they continue."""

from __future__ import annotations

import itertools
import json

import pytest

from sampler.chat.rendering import ChatRenderer
from tests.unit.sampler.conftest import build_tokenizer
from wire.errors import InvalidRequest
from wire.sampling import RenderRequest

TOKENIZER = build_tokenizer()
RENDERER = ChatRenderer(TOKENIZER)
END = TOKENIZER.eos_token_id
TOOLS = [{"type": "function", "function": {"name": "add", "description": "a + b", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": "ü"}'}}

USER = {"role": "user", "content": "what is it?"}
SYSTEM = {"role": "system", "content": "be brief"}
ANSWER = {"role": "assistant", "content": "42"}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "3"}


def render(messages: list[dict], **changes) -> list[int]:
    return RENDERER.render(RenderRequest(messages=messages, **changes)).token_ids


def text_of(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def test_a_chat_is_rendered_through_the_template_with_its_control_tokens():
    ids = render([SYSTEM, USER])
    system, user = "<|im_start|>system\nbe brief<|im_end|>\n", "<|im_start|>user\nwhat is it?<|im_end|>\n"
    assert text_of(ids) == system + user + "<|im_start|>assistant\n"
    assert ids.count(END) == 2
    assert text_of(render([USER], add_generation_prompt=False)).endswith("it?<|im_end|>\n")


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "what "}, {"type": "text", "text": "is it?"}]
    assert render([{"role": "user", "content": parts}]) == render([USER])


def test_arguments_of_a_replayed_tool_call_become_an_object_and_its_missing_content_is_fine():
    text = text_of(render([USER, CALLING, TOOL], tools=TOOLS))
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "ü"}}\n</tool_call><|im_end|>' in text
    assert '"description": "a + b"' in text
    assert CALL["function"]["arguments"] == '{"a": 1, "b": "ü"}'


def test_arguments_that_are_no_json_object_are_rendered_as_they_are():
    call = {"type": "function", "function": {"name": "add", "arguments": "not json"}}
    assert '"arguments": "not json"' in text_of(render([USER, {"role": "assistant", "tool_calls": [call]}]))


@pytest.mark.parametrize(
    "arguments", ['{"a":"\\ud800"}', '{"\\udfff":1}', '{"a":[{"b":"x\\uD83Dy"}]}', '{"a":"\\ude00\\ud83d"}']
)
def test_arguments_that_escape_half_a_surrogate_pair_are_rendered_as_the_text_that_was_written(arguments):
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    text = text_of(render([USER, {"role": "assistant", "tool_calls": [call]}, TOOL]))
    assert f'"arguments": {json.dumps(arguments)}' in text


def test_arguments_that_escape_whole_characters_become_an_object():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a":"\\ud83d\\ude00"}'}}
    assert '"arguments": {"a": "😀"}' in text_of(render([USER, {"role": "assistant", "tool_calls": [call]}]))


def test_template_arguments_reach_the_template():
    assert text_of(render([USER], chat_template_kwargs={"enable_thinking": False})).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["messages", "conversation", "tools", "tokenize", "chat_template", "return_dict"])
def test_template_arguments_cannot_take_over_the_rendering(name):
    with pytest.raises(InvalidRequest, match=name):
        render([USER], chat_template_kwargs={name: "x"})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        ([{"role": "critic", "content": "hm"}], "critic"),
        ([{"content": "hm"}], "role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], "image_url"),
        (
            [{"role": "user", "content": [{"type": "picture", "name": "0" * 64, "width": 1, "height": 1}]}],
            "no pictures",
        ),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "input_audio"),
        ([{"role": "user", "content": ["bare"]}], "str"),
        ([{"role": "user", "content": 5}], "int"),
        ([USER, {"role": "assistant", "tool_calls": ["add"]}], "tool call"),
        ([SYSTEM], "No user query found"),
    ],
)
def test_messages_that_cannot_be_rendered_are_refused_with_the_reason(messages, reason):
    with pytest.raises(InvalidRequest, match=reason):
        render(messages)


def test_a_base_without_a_template_says_so():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequest, match="no chat template"):
        ChatRenderer(tokenizer).render(RenderRequest(messages=[USER]))


def test_plain_text_is_tokenized_whole():
    assert RENDERER.tokenize("us<think>") == TOKENIZER.encode("us<think>")


HISTORIES = {
    "answer": ([USER, ANSWER], "42"),
    "answer after a system message": ([SYSTEM, USER, ANSWER], "42"),
    "tool call": ([USER, CALLING], '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "ü"}}\n</tool_call>'),
}
FOLLOWING = {
    "a user message": [USER],
    "several user messages": [USER, {"role": "user", "content": "well?"}],
    "a tool message": [TOOL],
    "several tool messages": [TOOL, {**TOOL, "content": "4\n"}, TOOL],
    "tools, then the user": [TOOL, USER],
    "a turn without ids": [TOOL, CALLING, TOOL],
}


@pytest.mark.parametrize("truncated", [False, True], ids=["ended", "truncated"])
@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize(("history", "following"), list(itertools.product(HISTORIES, FOLLOWING)))
def test_a_continuation_of_canonical_ids_equals_the_rendering_from_scratch(history, following, tools, truncated):
    covered, answer = HISTORIES[history]
    messages = [*covered, *FOLLOWING[following]]
    continued = render(covered[:-1], tools=tools) + TOKENIZER.encode(answer) + ([] if truncated else [END])
    ids = render(messages, tools=tools, continued_ids=continued, continued_messages=len(covered))
    assert ids == render(messages, tools=tools)
    assert ids[: len(continued)] == continued


def test_sampled_ids_that_would_tokenize_otherwise_stay_as_they_are():
    sampled = TOKENIZER.encode("u") + TOKENIZER.encode("s")
    assert sampled != TOKENIZER.encode("us")
    continued = [*render([USER]), *sampled, END]
    ids = render([USER, {"role": "assistant", "content": "us"}, USER], continued_ids=continued, continued_messages=2)
    assert ids[: len(continued)] == continued
    assert text_of(ids) == text_of(render([USER, {"role": "assistant", "content": "us"}, USER]))


def test_an_answer_cut_off_at_what_the_separator_begins_with_loses_nothing():
    continued = [*render([USER]), *TOKENIZER.encode("42\n")]
    ids = render([USER, {**ANSWER, "content": "42\n"}, USER], continued_ids=continued, continued_messages=2)
    assert text_of(ids[len(continued) :]).startswith("<|im_end|>\n<|im_start|>user")


def test_reasoning_of_the_history_is_kept_though_the_template_would_drop_it():
    continued = [*render([USER]), *TOKENIZER.encode("<think>\nhm\n</think>\n\n42"), END]
    thought = {**ANSWER, "reasoning_content": "hm"}
    ids = render([USER, thought, USER], continued_ids=continued, continued_messages=2)
    assert "<think>\nhm\n</think>" in text_of(ids)
    assert "<think>" not in text_of(render([USER, thought, USER]))


@pytest.mark.parametrize("count", [0, 4])
def test_a_continuation_must_cover_some_of_the_messages(count):
    with pytest.raises(InvalidRequest, match="continued_messages"):
        render([USER, ANSWER, USER], continued_ids=[1], continued_messages=count)


def test_a_continuation_that_does_not_end_with_an_answer_is_refused():
    with pytest.raises(InvalidRequest, match="user message"):
        render([USER, ANSWER, USER], continued_ids=[1], continued_messages=1)


def test_a_template_that_hides_answers_cannot_be_continued():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}"
    request = RenderRequest(messages=[USER, ANSWER, USER], continued_ids=[1], continued_messages=2)
    with pytest.raises(InvalidRequest, match="continued"):
        ChatRenderer(tokenizer).render(request)
