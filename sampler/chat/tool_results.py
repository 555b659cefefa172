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
        content: Any = message.get("content")
        if is_result:
            content = _joined("<tool_response>\n", content, "\n</tool_response>")
        follows_result = bool(shown) and shown[-1].get("results", False)
        if follows_result and message["role"] in ("tool", "user"):
            shown[-1]["content"] = _joined(shown[-1]["content"], "\n", content)
        else:
            shown.append({"role": "user", "content": content, "results": True} if is_result else message)
    return [{key: value for key, value in message.items() if key != "results"} for message in shown]


def _joined(*contents: Any) -> Any:
    """One text, or, where one of them has pictures, parts with no text beside another."""
    if all(isinstance(content, str) for content in contents):
        return "".join(contents)
    parts = list[Message]()
    for part in (part for content in contents for part in _parts(content)):
        if parts and parts[-1]["type"] == part["type"] == "text":
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
        else:
            parts.append(part)
    return parts


def _parts(content: Any) -> list[Message]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _rendered(render: Render, messages: list[Message]) -> bool:
    try:
        return _RESULT in render(messages, [], False)
    except InvalidRequest:
        return False
