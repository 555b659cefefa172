"""A constraint in the words of vLLM's structured outputs. How a base writes a call, vLLM's tool parser knows: the
grammar of forced calls is what its render route makes of an empty chat with these tools."""

from __future__ import annotations

from typing import Any

from sampler.backends.vllm.routes import EMPTY_CHAT, RENDER, Post
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls

_MAX_KEPT = 256


class StructuredOutputs:
    """Translates; `post` asks the server."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._of_calls: dict[str, dict[str, Any]] = {}

    async def of(self, constraint: Constraint) -> dict[str, Any]:
        """vLLM's `structured_outputs`. Raises InvalidRequest for calls that the base's format cannot be held to."""
        if constraint.calls is not None:
            return await self._calls(constraint.calls)
        given = {
            "json": constraint.json_schema,
            "regex": constraint.regex,
            "choice": constraint.choice,
            "grammar": constraint.grammar,
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
        body = {
            "messages": EMPTY_CHAT,
            "tools": [_strict(tool) for tool in calls.tools],
            "tool_choice": "required",
            "parallel_tool_calls": not calls.single,
            "max_tokens": 1,
        }
        found = (await self._post(RENDER, body))["sampling_params"].get("structured_outputs") or {}
        grammar = {kind: value for kind, value in found.items() if value and not kind.startswith("_")}
        if not grammar:
            raise InvalidRequest(
                "a call cannot be forced: vLLM's tool parser of this base has no grammar for calls, or none was named "
                "with --tool-call-parser"
            )
        return grammar


def _strict(tool: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forced call follow the function's schema, unless it says otherwise."""
    return {**tool, "function": {"strict": True, **tool["function"]}}


def reasoning_gate(constraint: Constraint) -> dict[str, Any]:
    """Fields of a generate request: from where on the constraint holds."""
    if constraint.after_reasoning is None:
        return {"reasoning_ended": True}
    return {"reasoning_parser_kwargs": {"chat_template_kwargs": constraint.after_reasoning}}
