"""Anthropic's messages as those of a chat: a tool's result is a message of its own, and what one role says in a row is
one message."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any

from server.protocols.anthropic.tool_inputs import arguments_of
from server.sampling.image_parts import content_of, image_part, joined
from server.sampling.requests import Content, Part
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

Message = dict[str, Any]

_MARKS: Mapping[str, Container[Any]] = {"cache_control": ANY}
_OF_TEXTS: Mapping[str, Container[Any]] = {**_MARKS, "citations": ANY}
_OF_RESULTS: Mapping[str, Container[Any]] = {**_MARKS, "is_error": ANY, "toolset_name": ()}
_OF_CALLS: Mapping[str, Container[Any]] = {**_MARKS, "caller": ({"type": "direct"},), "toolset_name": ()}
_NOT_TEXT = ("document", "search_result", "container_upload")
_IMAGE = "image"
_BETWEEN = "\n"
"""Between blocks of text that are not the policy's own."""


def chat_messages(system: str | Sequence[dict[str, Any]] | None, messages: Sequence[dict[str, Any]]) -> list[Message]:
    """Of a request. Raises InvalidRequest, which names the block, for whatever has no place in a chat."""
    chat = list[Message]()
    if system:
        text = system if isinstance(system, str) else _texts("system", system)
        chat.append({"role": "system", "content": text})
    for index, message in enumerate(messages):
        _add(chat, f"messages[{index}]", message)
    if chat[-1]["role"] == "assistant":
        raise InvalidRequest(
            "messages end with the assistant's, which this server cannot write on; end with a message of the user's",
            param="messages",
        )
    return chat


def _add(chat: list[Message], where: str, message: Mapping[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise InvalidRequest(f"{where}.role is {role!r}; it must be user, assistant or system", param=f"{where}.role")
    check_fields(f"{where}.", message, ("role", "content"), _MARKS)
    if isinstance(content, str):
        blocks: list[Any] = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        blocks = content
    else:
        raise InvalidRequest(f"{where}.content must be a text or a list of blocks", param=f"{where}.content")
    if role == "assistant":
        _add_answer(chat, f"{where}.content", blocks)
    elif role == "system":
        chat.append({"role": "system", "content": _texts(f"{where}.content", blocks)})
    else:
        _add_said(chat, f"{where}.content", blocks)


def _add_said(chat: list[Message], where: str, blocks: Sequence[Any]) -> None:
    """A message of the user's: texts, and results of tools, in their order."""
    if not blocks:
        raise InvalidRequest(f"{where} is empty: a message of the user's needs a block", param=where)
    for index, block in enumerate(blocks):
        this = f"{where}[{index}]"
        if _kind(block) == "tool_result":
            chat.append(_result(this, block))
            continue
        said = content_of([_shown(this, block)])
        if chat and chat[-1]["role"] == "user":
            chat[-1]["content"] = joined(chat[-1]["content"], said, _BETWEEN)
        else:
            chat.append({"role": "user", "content": said})


def _add_answer(chat: list[Message], where: str, blocks: Sequence[Any]) -> None:
    if not chat or chat[-1]["role"] != "assistant":
        chat.append({"role": "assistant", "content": ""})
    answer = chat[-1]
    for index, block in enumerate(blocks):
        this, kind = f"{where}[{index}]", _kind(block)
        if kind == "thinking":
            answer["reasoning_content"] = answer.get("reasoning_content", "") + _thought(this, block)
        elif kind == "tool_use":
            answer.setdefault("tool_calls", []).append(_call(this, block))
        else:
            answer["content"] += _text(this, block)


def _thought(where: str, block: Mapping[str, Any]) -> str:
    check_fields(f"{where}.", block, ("type", "thinking", "signature"), _MARKS)
    if not isinstance(block.get("thinking"), str):
        raise InvalidRequest(f"{where}.thinking must be a text", param=f"{where}.thinking")
    return block["thinking"]


def _call(where: str, block: Mapping[str, Any]) -> dict[str, Any]:
    check_fields(f"{where}.", block, ("type", "id", "name", "input"), _OF_CALLS)
    name, given = block.get("name"), block.get("input")
    if not isinstance(name, str) or not isinstance(given, dict) or not isinstance(block.get("id"), str):
        raise InvalidRequest(f"{where} must have an id, a name, and an object as input", param=where)
    return {"id": block["id"], "type": "function", "function": {"name": name, "arguments": arguments_of(given)}}


def _result(where: str, block: Mapping[str, Any]) -> Message:
    check_fields(f"{where}.", block, ("type", "tool_use_id", "content"), _OF_RESULTS)
    content, call_id = block.get("content"), block.get("tool_use_id")
    if not isinstance(call_id, str):
        raise InvalidRequest(f"{where}.tool_use_id must be the id of a tool_use", param=f"{where}.tool_use_id")
    if not isinstance(content, str | list | None):
        raise InvalidRequest(f"{where}.content must be a text or a list of blocks", param=f"{where}.content")
    shown = content if isinstance(content, str) else _shown_blocks(f"{where}.content", content or [])
    return {"role": "tool", "tool_call_id": call_id, "content": shown}


def _shown_blocks(where: str, blocks: Sequence[Any]) -> Content:
    content: Content = ""
    for index, block in enumerate(blocks):
        shown = content_of([_shown(f"{where}[{index}]", block)])
        content = joined(content, shown, _BETWEEN) if index else shown
    return content


def _shown(where: str, block: Any) -> str | Part:
    """A text, or a picture."""
    return _image(where, block) if _kind(block) == _IMAGE else _text(where, block)


def _image(where: str, block: Mapping[str, Any]) -> Part:
    check_fields(f"{where}.", block, ("type", "source"), _MARKS)
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if isinstance(source, dict) and kind == "base64":
        check_fields(f"{where}.source.", source, ("type", "media_type", "data"))
        if not isinstance(source.get("media_type"), str) or not isinstance(source.get("data"), str):
            raise InvalidRequest(f"{where}.source must have a media_type and data as texts", param=f"{where}.source")
        return image_part(where, f"data:{source['media_type']};base64,{source['data']}")
    if isinstance(source, dict) and kind == "url":
        check_fields(f"{where}.source.", source, ("type", "url"))
        return image_part(where, source.get("url"))
    raise InvalidRequest(f"{where}.source must be of type 'base64' or 'url'", param=f"{where}.source")


def _texts(where: str, blocks: Sequence[Any]) -> str:
    return _BETWEEN.join(_text(f"{where}[{index}]", block) for index, block in enumerate(blocks))


def _text(where: str, block: Any) -> str:
    kind = _kind(block)
    if kind == _IMAGE:
        raise InvalidRequest(f"{where} is a picture that is not the user's, nor a tool's; send it as such", param=where)
    if kind in _NOT_TEXT:
        raise InvalidRequest(f"{where} is of type {kind!r}, which is not served; send its text", param=where)
    if kind != "text" or not isinstance(block.get("text"), str):
        what = f"of type {json.dumps(kind)[:100]}, which is not served" if kind != "text" else "without its text"
        raise InvalidRequest(f"{where} is {what}", param=where)
    check_fields(f"{where}.", block, ("type", "text"), _OF_TEXTS)
    return block["text"]


def _kind(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None
