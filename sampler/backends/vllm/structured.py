"""A constraint in the words of vLLM's structured outputs. How a base writes a call, vLLM's tool parser knows: the
grammar of forced calls is what its render route makes of an empty chat with these tools.

Blanks are bounded: JSON schemas are compact by the server's own setting (`command.py`), and the JSON texts inside of a
structural tag take a limit.
"""

from __future__ import annotations

import json
from typing import Any

from sampler.backends.vllm.routes import EMPTY_CHAT, RENDER, Post
from sampler.chat.json_schemas import MAX_BLANKS, bounded_schema, function_parameters, plain_grammar
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls

_MAX_KEPT = 256


class StructuredOutputs:
    """Translates; `post` asks the server. `several`: whether an answer may have more calls than one."""

    def __init__(self, post: Post, *, several: bool = True) -> None:
        self._post = post
        self._several = several
        self._of_calls: dict[str, dict[str, Any]] = {}

    async def of(self, constraint: Constraint) -> dict[str, Any]:
        """vLLM's `structured_outputs`. Raises InvalidRequest for calls that the base's format cannot be held to."""
        if constraint.calls is not None:
            return await self._calls(constraint.calls)
        given = {
            "json": _checked(constraint.json_schema),
            "regex": constraint.regex,
            "choice": constraint.choice,
            "grammar": constraint.grammar and plain_grammar(constraint.grammar),
        }
        return {kind: value for kind, value in given.items() if value is not None}

    async def _calls(self, calls: ForcedCalls) -> dict[str, Any]:
        key = calls.model_dump_json()
        if (known := self._of_calls.get(key)) is not None:
            return known
        if len(self._of_calls) >= _MAX_KEPT:
            self._of_calls.clear()
        self._of_calls[key] = found = await self._rendered(calls)
        return found

    async def _rendered(self, calls: ForcedCalls) -> dict[str, Any]:
        for tool in calls.tools:
            bounded_schema(function_parameters(tool["function"]))
        body = {
            "messages": EMPTY_CHAT,
            "tools": [_strict(tool) for tool in calls.tools],
            "tool_choice": "required",
            "parallel_tool_calls": self._several and not calls.single,
            "max_tokens": 1,
        }
        found = (await self._post(RENDER, body))["sampling_params"].get("structured_outputs") or {}
        grammar = {kind: value for kind, value in found.items() if value and not kind.startswith("_")}
        if isinstance(tag := grammar.get("structural_tag"), str):
            grammar["structural_tag"] = json.dumps(_with_bounded_blanks(json.loads(tag)))
        if not grammar:
            raise InvalidRequest(
                "a call cannot be forced: vLLM's tool parser of this base has no grammar for calls, or none was named "
                "with --tool-call-parser"
            )
        return grammar


def _checked(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    if schema is not None:
        bounded_schema(schema)
    return schema


def _with_bounded_blanks(tag: Any) -> Any:
    """xgrammar's structural tag with a limit on the blanks of every JSON text in it."""
    if isinstance(tag, list):
        return [_with_bounded_blanks(part) for part in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == "json_schema" and "json_schema" in tag:
        return {**tag, "max_whitespace_cnt": MAX_BLANKS}
    return {name: _with_bounded_blanks(part) for name, part in tag.items()}


def _strict(tool: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forced call follow the function's schema, unless it says otherwise."""
    return {**tool, "function": {"strict": True, **tool["function"]}}


def reasoning_gate(constraint: Constraint) -> dict[str, Any]:
    """Fields of a generate request: from where on the constraint holds."""
    if constraint.after_reasoning is None:
        return {"reasoning_ended": True}
    return {"reasoning_parser_kwargs": {"chat_template_kwargs": constraint.after_reasoning}}
