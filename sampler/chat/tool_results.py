"""Results of tools under a chat template that has no place for them: as text of a user's message, in Hermes' form.

Gemma's templates refuse messages of tools and two messages of a user in a row. Calls are written in Hermes' form there
(`sampler.chat.call_forms`), and so are their results.
"""

from __future__ import annotations

from typing import Any

from sampler.chat.call_forms import Message, Render
from wire.errors import InvalidRequest

_RESULT = "headwayresult"
_CALL: dict[str, Any] = {"id": "headway01", "type": "function", "function": {"name": "probe", "arguments": {}}}
_AFTER_AN_ANSWER: tuple[Message, ...] = ({"role": "assistant", "content": "."},)
_AFTER_A_CALL: tuple[Message, ...] = (
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "assistant", "content": None, "tool_calls": [{**_CALL, "function": {"name": "probe", "arguments": "{}"}}]},
)


def shows_results(render: Render) -> bool:
    """Whether the template behind `render` shows what a tool answered, in one of the ways in which it may be asked. One
    that renders nothing at all is left to say so itself."""
    if not _rendered(render, [{"role": "user", "content": _RESULT}]):
        return True
    result: Message = {"role": "tool", "tool_call_id": _CALL["id"], "name": "probe", "content": _RESULT}
    answers = (*_AFTER_AN_ANSWER, *_AFTER_A_CALL)
    return any(_rendered(render, [{"role": "user", "content": "."}, answer, result]) for answer in answers)


def as_user_messages(messages: list[Message]) -> list[Message]:
    """The same chat, its results as text of the user, who says what follows them in the same message."""
    shown = list[Message]()
    for message in messages:
        is_result = message["role"] == "tool"
        text = f"<tool_response>\n{message['content']}\n</tool_response>" if is_result else message.get("content")
        follows_result = bool(shown) and shown[-1].get("results", False)
        if follows_result and message["role"] in ("tool", "user"):
            shown[-1]["content"] += f"\n{text}"
        else:
            shown.append({"role": "user", "content": text, "results": True} if is_result else message)
    return [{key: value for key, value in message.items() if key != "results"} for message in shown]


def _rendered(render: Render, messages: list[Message]) -> bool:
    try:
        return _RESULT in render(messages, [], False)
    except InvalidRequest:
        return False
