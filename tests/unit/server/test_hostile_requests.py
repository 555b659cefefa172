"""Requests for responses and messages with any part of them replaced by something else: served, or refused in one
sentence. Anything else would be a 500."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from server.protocols.anthropic.prompts import chat_of, sampling_params
from server.protocols.anthropic.schemas import AnyMessages, MessagesRequest
from server.protocols.openai.responses.prompts import as_chat, constraint_of, params_of, prompt_of
from server.protocols.openai.responses.schemas import AnyResponse, ResponseRequest
from server.values.validation_messages import read_as
from wire.errors import HeadwayError

TEXT = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
CALL = {"type": "tool_use", "id": "i", "name": "n", "input": {"a": 1}, "caller": {"type": "direct"}}
MESSAGE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "system": [TEXT],
    "messages": [
        {"role": "user", "content": [TEXT]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "a", "signature": "s"}, TEXT, CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": [TEXT]}]},
    ],
    "tools": [{"name": "n", "description": "d", "input_schema": {"type": "object"}, "defer_loading": False}],
    "tool_choice": {"type": "tool", "name": "n", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 4},
    "output_config": {"effort": "low"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "stop_sequences": ["a"],
}
PART = {"type": "input_text", "text": "x"}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "input": [
        {"type": "message", "role": "user", "content": [PART]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [PART]},
    ],
    "tools": [{"type": "function", "name": "n", "parameters": {}, "strict": True}],
    "tool_choice": {"type": "function", "name": "n"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "stream_options": {"include_obfuscation": True},
}
OTHERS = (None, 0, -1, 2.5, True, "", "x", "none", [], {}, [[]], [{}], {"type": []}, {"type": "text"}, {"a": {"b": []}})


def read_message(body: dict[str, Any]) -> None:
    request = read_as(MessagesRequest, read_as(AnyMessages, body).given())
    sampling_params(request, chat_of(request))


def read_response(body: dict[str, Any]) -> None:
    request = read_as(ResponseRequest, read_as(AnyResponse, body).given())
    chat = as_chat(request, [])
    prompt_of(chat)
    params_of(request, chat, constraint_of(request, chat))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize(
    ("read", "whole", "left_out"), [(read_message, MESSAGE, "system"), (read_response, RESPONSE, "tool_choice")]
)
def test_whatever_stands_in_a_place_is_served_or_refused_in_one_sentence(read, whole, left_out):
    draws, whole = random.Random(0), {name: value for name, value in whole.items() if name != left_out}
    read(whole)
    for *path, last in [place for place in places(whole) if place]:
        for other in draws.sample(OTHERS, 8):
            body = copy.deepcopy(whole)
            holder = body
            for key in path:
                holder = holder[key]
            holder[last] = other
            try:
                read(body)
            except HeadwayError as refusal:
                assert (400 <= refusal.status < 500, "\n" in refusal.message) == (True, False), refusal.message
