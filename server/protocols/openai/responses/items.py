"""Items of a conversation as messages of a chat. What the policy says in a row, its reasoning, its text and its calls,
is one message."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from server.sampling.image_parts import content_of, image_part
from server.sampling.requests import Content, Part
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

Message = dict[str, Any]

_MESSAGE = ("type", "role", "content")
_OF_ITEMS: Mapping[str, Container[Any]] = {"id": ANY, "status": ANY}
_OF_MESSAGES: Mapping[str, Container[Any]] = {**_OF_ITEMS, "phase": ANY}
_OF_PARTS: Mapping[str, Container[Any]] = {
    "annotations": ANY,
    "logprobs": ANY,
    "parsed": ANY,
    "prompt_cache_breakpoint": ANY,
}
_OF_CALLS: Mapping[str, Container[Any]] = {
    **_OF_ITEMS,
    "parsed_arguments": ANY,
    "created_by": ANY,
    "caller": ({"type": "direct"},),
    "async": (False,),
}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Parts that are texts, and the field in which they have theirs."""
_ROLES = {"user": "user", "assistant": "assistant", "system": "developer", "developer": "developer"}
"""The role in a chat. The system's message there is the instructions', which a later response does not take over."""


def chat_messages(instructions: str | None, history: Sequence[Message], items: str | Sequence[Any]) -> list[Message]:
    """Of a request. `history`: messages before its own. Raises InvalidRequest, which names the item, for whatever has
    no place in a chat."""
    chat: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    chat += history
    if isinstance(items, str):
        return [*chat, {"role": "user", "content": items}]
    added = list[Message]()
    for index, item in enumerate(items):
        _add(added, f"input[{index}]", item)
    return [*chat, *added]


def without_instructions(messages: Sequence[Message]) -> list[Message]:
    """Recorded messages, without those that the instructions of their request were."""
    return [message for message in messages if message.get("role") != "system"]


def _add(chat: list[Message], where: str, item: Mapping[str, Any]) -> None:
    kind = item.get("type")
    if kind in (None, "message"):
        _add_message(chat, where, item)
    elif kind == "function_call":
        _answer(chat).setdefault("tool_calls", []).append(_call(where, item))
    elif kind == "function_call_output":
        chat.append(_output(where, item))
    elif kind == "reasoning":
        _add_reasoning(chat, where, item)
    else:
        hint = "; send the item itself" if kind == "item_reference" else ""
        raise InvalidRequest(f"{where} is of type {json.dumps(kind)[:100]}, which is not served{hint}", param=where)


def _add_message(chat: list[Message], where: str, item: Mapping[str, Any]) -> None:
    check_fields(f"{where}.", item, _MESSAGE, _OF_MESSAGES)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(
            f"{where}.role is {role!r}; it must be user, assistant, system or developer", param=f"{where}.role"
        )
    content = _content(f"{where}.content", item.get("content"), sees=role == "user")
    if role != "assistant":
        chat.append({"role": _ROLES[role], "content": content})
        return
    answer = _answer(chat)
    answer["content"] += content


def _add_reasoning(chat: list[Message], where: str, item: Mapping[str, Any]) -> None:
    check_fields(f"{where}.", item, ("type", "content", "summary"), {**_OF_ITEMS, "encrypted_content": ()})
    parts = item.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest(
            f"{where} has no content: reasoning is shown to a policy as it was written, or left out", param=where
        )
    texts = [part.get("text") for part in parts if part.get("type") == "reasoning_text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f"{where}.content must be parts of type 'reasoning_text'", param=f"{where}.content")
    answer = _answer(chat)
    if answer["content"] or answer.get("tool_calls"):
        answer = {"role": "assistant", "content": ""}
        chat.append(answer)
    answer["reasoning_content"] = answer.get("reasoning_content", "") + "".join(map(str, texts))


def _call(where: str, item: Mapping[str, Any]) -> dict[str, Any]:
    check_fields(f"{where}.", item, ("type", "call_id", "name", "arguments"), _OF_CALLS)
    facts = {name: item.get(name) for name in ("call_id", "name", "arguments")}
    if not all(isinstance(value, str) for value in facts.values()):
        raise InvalidRequest(f"{where} must have a call_id, a name, and arguments as a text", param=where)
    function = {"name": facts["name"], "arguments": facts["arguments"]}
    return {"id": facts["call_id"], "type": "function", "function": function}


def _output(where: str, item: Mapping[str, Any]) -> Message:
    check_fields(f"{where}.", item, ("type", "call_id", "output"), _OF_CALLS)
    if not isinstance(item.get("call_id"), str):
        raise InvalidRequest(f"{where}.call_id must be that of a function_call", param=f"{where}.call_id")
    content = _content(f"{where}.output", item.get("output"), sees=True)
    return {"role": "tool", "tool_call_id": item["call_id"], "content": content}


def _content(where: str, content: Any, *, sees: bool) -> Content:
    """`sees`: pictures may stand there."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a text or a list of parts", param=where)
    return content_of([_part(f"{where}[{index}]", part, sees=sees) for index, part in enumerate(content)])


def _part(where: str, part: Any, *, sees: bool) -> str | Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        return _image(where, part, sees=sees)
    if kind in ("input_file", "input_audio"):
        raise InvalidRequest(f"{where} is of type {kind!r}, which is not served; send its text", param=where)
    name = _TEXTS.get(kind) if isinstance(kind, str) else None
    if name is None or not isinstance(part.get(name), str):
        raise InvalidRequest(f"{where} must be a part of type 'input_text' with a text", param=where)
    check_fields(f"{where}.", part, ("type", name), _OF_PARTS)
    return part[name]


def _image(where: str, part: Mapping[str, Any], *, sees: bool) -> Part:
    if not sees:
        raise InvalidRequest(f"{where} is a picture that is not the user's, nor a tool's; send it as such", param=where)
    check_fields(f"{where}.", part, ("type", "image_url", "detail"), {**_OF_PARTS, "file_id": ()})
    return image_part(where, part.get("image_url"), part.get("detail"))


def _answer(chat: list[Message]) -> Message:
    """The message of the policy that grows."""
    if not chat or chat[-1]["role"] != "assistant":
        chat.append({"role": "assistant", "content": ""})
    return chat[-1]
