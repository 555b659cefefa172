"""Messages in Anthropic's shape."""

from __future__ import annotations

from typing import Any

from server.protocols.anthropic.schemas import MessagesRequest
from server.protocols.anthropic.tool_inputs import input_of
from server.sampling.answers import Answer
from server.sampling.requests import SampleRequest
from server.sampling.target import Target


class Reply:
    """What whole messages and streams of them have in common."""

    def __init__(self, body: MessagesRequest, target: Target, request: SampleRequest) -> None:
        self._body = body
        self._slug = target.slug
        self._id = request.id

    @property
    def signature(self) -> str:
        """Of a `thinking` block. Clients send it back, and it is not looked at."""
        return self._id

    def message(self, prompt_tokens: int) -> dict[str, Any]:
        """As a stream begins."""
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "model": self._slug,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(prompt_tokens, 0),
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """All of it."""
        message = {**self.message(len(answer.prompt_ids)), "content": self._blocks(answer), **self.ending(answer)}
        return {**message, "usage": usage(len(answer.prompt_ids), len(answer.tokens))}

    def ending(self, answer: Answer) -> dict[str, Any]:
        """Why it ended. An answer that is cut off before `max_tokens` has filled the context."""
        if answer.finish_reason == "length":
            is_full = len(answer.tokens) < self._body.max_tokens
            return _ending("model_context_window_exceeded" if is_full else "max_tokens")
        if answer.as_message().get("tool_calls"):
            return _ending("tool_use")
        stopped_by = answer.stopped_by(self._body.stop_sequences or [])
        return _ending("stop_sequence" if stopped_by else "end_turn", stopped_by)

    def _blocks(self, answer: Answer) -> list[dict[str, Any]]:
        message, blocks = answer.as_message(), list[dict[str, Any]]()
        if message.get("reasoning_content"):
            thought = message["reasoning_content"]
            blocks.append({"type": "thinking", "thinking": thought, "signature": self.signature})
        if message["content"]:
            blocks.append({"type": "text", "text": message["content"]})
        for call in message.get("tool_calls", []):
            blocks.append(tool_use(call["id"], call["function"]["name"], input_of(call["function"]["arguments"])))
        return blocks


def tool_use(call_id: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A call."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Samplers do not report what their prefix cache saved."""
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": prompt_tokens, **cached, "output_tokens": output_tokens}


def _ending(reason: str, stopped_by: str | None = None) -> dict[str, Any]:
    return {"stop_reason": reason, "stop_sequence": stopped_by}
