"""What was asked and what came of it, as the chat messages that other stacks take.

Only what the gateway recorded has text: this server has no tokenizer. Roles, text, reasoning and tool calls
are kept; of content in parts the text parts. Arguments of tool calls are JSON text, as in OpenAI's own format: so every
row of a file has the same columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from server.values.sanitizing import storable_text, text_or_none
from store.rollouts import Resolved

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """`prompt`: the messages before the first answer. `completion`: that answer, and everything up to the last one.

    Both are texts instead where the policy continued a plain text. `tools`: what the first request offered.
    """

    prompt: list[Message] | str
    completion: list[Message] | str
    tools: list[Any]

    def messages(self) -> tuple[list[Message], list[Message]]:
        """Prompt and completion as messages, whatever they are; a plain text becomes one of the user's."""
        prompt, completion = self.prompt, self.completion
        return (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion,
        )


def dialogue_of(resolved: Resolved) -> Dialogue | None:
    """The rollout in words. None where the gateway has no record of one of its turns, or of what a text began with."""
    turns = [sample.conversation for sample in resolved.samples]
    if not turns or any(turn is None for turn in turns):
        return None
    asked = [turn for turn in turns if turn is not None]
    first, last = asked[0], asked[-1]
    if isinstance(first.reply, str):
        text = first.preamble.get("prompt")
        return Dialogue(text, first.reply, []) if isinstance(text, str) and len(asked) == 1 else None
    begun = len(first.messages)
    if last.messages[:begun] == first.messages:
        later = [*last.messages[begun:], last.reply]
    else:  # the agent rewrote its history: what remains certain is what it said
        later = [turn.reply for turn in asked]
    tools = first.preamble.get("tools")
    return Dialogue(
        [_message(one) for one in first.messages],
        [_message(one) for one in later],
        tools if isinstance(tools, list) else [],
    )


def _message(said: Any) -> Message:
    said = said if isinstance(said, dict) else {"content": said}
    reasoning = said.get("reasoning_content", said.get("reasoning"))
    message: Message = {"role": text_or_none(said.get("role")) or "assistant", "content": _content(said.get("content"))}
    if isinstance(reasoning, str):
        message["reasoning_content"] = storable_text(reasoning)
    if calls := [_call(call) for call in said.get("tool_calls") or [] if isinstance(call, dict)]:
        message["tool_calls"] = calls
    for name in ("tool_call_id", "name"):
        if isinstance(said.get(name), str):
            message[name] = storable_text(said[name])
    return message


def _content(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return storable_text("".join(part for part in parts if isinstance(part, str)))
    return text_or_none(content) or ""


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, dict) else call
    arguments = function.get("arguments")
    return {
        "id": text_or_none(call.get("id")) or "",
        "type": "function",
        "function": {
            "name": text_or_none(function.get("name")) or "",
            "arguments": storable_text(arguments) if isinstance(arguments, str) else json.dumps(arguments),
        },
    }
