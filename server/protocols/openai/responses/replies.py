"""Responses in OpenAI's shape: the request again, and the items of the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from server.protocols.openai.replies import chat_logprobs
from server.protocols.openai.responses.parameters import shows_logprobs, shows_summary
from server.protocols.openai.responses.prompts import ID_PREFIX
from server.protocols.openai.responses.schemas import ResponseRequest
from server.sampling.answers import Answer
from server.sampling.requests import SampleRequest
from server.sampling.target import Target
from wire.sampling import SampledTokens

Item = dict[str, Any]

_REPEATED = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user", "max_tool_calls")


class Reply:
    """What whole responses and streams of them have in common."""

    def __init__(self, body: ResponseRequest, target: Target, request: SampleRequest) -> None:
        self.body = body
        self._slug = target.slug
        self._request = request
        self._created_at = int(time.time())

    def response(self, status: str, output: Sequence[Item], answer: Answer | None = None) -> dict[str, Any]:
        """As it is by now. `answer`: once it is complete."""
        body = self.body
        asked_text, asked_reasoning = body.text or {}, body.reasoning or {}
        return {
            "id": f"{ID_PREFIX}{self._request.id}",
            "object": "response",
            "created_at": self._created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._slug,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": asked_reasoning.get("effort"), "summary": asked_reasoning.get("summary")},
            "service_tier": "default",
            "store": self._request.rollout is not None,
            "temperature": self._request.params.temperature,
            "text": {"format": asked_text.get("format") or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self._request.params.top_p,
            "truncation": "disabled",
            "usage": None if answer is None else _usage(len(answer.prompt_ids), len(answer.tokens)),
            **{name: (body.model_extra or {}).get(name) for name in _REPEATED},
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All of it."""
        message, output = answer.as_message(), list[Item]()
        if message.get("reasoning_content"):
            output.append(self.reasoning(len(output), message["reasoning_content"]))
        calls = message.get("tool_calls", [])
        if message["content"] or not calls:
            output.append(self.message(len(output), message["content"] or "", self.logprobs(answer.tokens)))
        for call in calls:
            function = call["function"]
            output.append(self.call(len(output), call["id"], function["name"], function["arguments"]))
        return self.complete(output, answer)

    def complete(self, output: Sequence[Item], answer: Answer) -> dict[str, Any]:
        """The response when its answer has ended, with the status of its last item set accordingly."""
        status = ending(answer)
        if output and output[-1]["type"] != "reasoning":
            output[-1]["status"] = status
        return self.response(status, output, answer)

    def reasoning(self, index: int, text: str | None) -> Item:
        """An item, which has begun where there is no text yet. A summary is the whole."""
        parts = [] if text is None else [{"type": "reasoning_text", "text": text}]
        summary = [{"type": "summary_text", "text": text}] if text and shows_summary(self.body) else []
        return {
            "id": f"rs_{self._request.id}_{index}",
            "type": "reasoning",
            "summary": summary,
            "content": parts,
            "encrypted_content": None,
            "status": _status(text),
        }

    def message(self, index: int, text: str | None, logprobs: Sequence[Any] = ()) -> Item:
        """Likewise."""
        parts = [] if text is None else [text_part(text, logprobs)]
        facts = {"id": f"msg_{self._request.id}_{index}", "type": "message", "role": "assistant"}
        return {**facts, "status": _status(text), "content": parts}

    def call(self, index: int, call_id: str, name: str, arguments: str | None) -> Item:
        """Likewise."""
        return {
            "id": f"fc_{self._request.id}_{index}",
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": arguments or "",
            "status": _status(arguments),
        }

    def logprobs(self, tokens: SampledTokens) -> list[Any]:
        """Of all sampled tokens, as in chats; none where they are not asked for."""
        return cast(list[Any], chat_logprobs(tokens).content) if shows_logprobs(self.body) else []


def text_part(text: str, logprobs: Sequence[Any]) -> dict[str, Any]:
    """The one part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def ending(answer: Answer) -> str:
    """The status of a response."""
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _status(content: str | None) -> str:
    return "in_progress" if content is None else "completed"


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Samplers do not report what their prefix cache saved, and reasoning is not counted apart."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
