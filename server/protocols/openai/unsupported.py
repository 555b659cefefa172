"""What messages and tools may hold, and which settings make a rollout off-policy. What is not served is refused by
name, never ignored: see `server.protocols.openai.parameters`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from server.protocols.openai.constraints import RequestedConstraint
from server.protocols.openai.schemas import ChatRequest, SamplingRequest
from server.sampling.image_parts import IMAGE, content_of, image_part, is_sent
from server.sampling.requests import Part
from server.values.functions import check_function
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest

# What chat templates may read, and what clients add when they send an answer back.
_MESSAGE = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
)
_ADDED: Mapping[str, Container[Any]] = {"provider_specific_fields": ANY, "cache_control": ANY}
_ADDED_TO_MESSAGES: Mapping[str, Container[Any]] = {
    **_ADDED,
    "id": ANY,
    "annotations": ANY,
    "parsed": ANY,
    "refusal": ("",),
    "audio": (),
    "function_call": (),
}
_PART: Mapping[str, frozenset[str]] = {kind: frozenset(("type", kind)) for kind in ("text", "refusal")}
_IMAGE = ("type", IMAGE)
_ADDED_TO_PARTS: Mapping[str, Container[Any]] = {**_ADDED, "annotations": ANY, "logprobs": ANY}
_ADDED_TO_IMAGES: Mapping[str, Container[Any]] = {**_ADDED, "uuid": ANY}
_SEES = ("user", "tool")
"""Whose messages may show pictures: a policy writes none, and templates leave those of instructions out."""
_CALL = frozenset(("id", "type", "function"))
_ADDED_TO_CALLS: Mapping[str, Container[Any]] = {**_ADDED, "index": ANY}
_CALLED = frozenset(("name", "arguments"))
_ADDED_TO_CALLED: Mapping[str, Container[Any]] = {**_ADDED, "parsed_arguments": ANY}
_TOOL = frozenset(("type", "function"))
_FUNCTION = frozenset(("name", "description", "parameters", "strict", "return"))
_OTHER_MEDIA = ("image", "input_image", "input_audio", "audio_url", "video_url", "file")


def check_logprobs(request: ChatRequest) -> None:
    """Raises InvalidRequest for alternatives to logprobs that were not asked for."""
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")


def off_policy_settings(request: SamplingRequest, asked: RequestedConstraint | None) -> list[str]:
    """Settings of a training rollout under which its logprobs are not those that a trainer computes."""
    if not request.return_token_ids:
        return []
    constrained = [asked[0]] if asked else []
    truncated = {"top_p": request.top_p not in (None, 1), "top_k": (request.top_k or 0) > 0}
    bent = {"temperature": request.temperature not in (None, 1), "min_tokens": bool(request.min_tokens)}
    return [*(name for name, is_set in {**bent, **truncated}.items() if is_set), *constrained]


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with texts in one piece, but where there are pictures among them. Raises InvalidRequest for what is
    not a message."""
    return [_plain_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def plain_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a chat template shows them. Raises InvalidRequest for what is none."""
    plain = list[dict[str, Any]]()
    for index, tool in enumerate(tools):
        where, function = f"tools[{index}]", tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type") != "function" or not isinstance(function, dict) or not isinstance(name, str) or not name:
            raise InvalidRequest(f"{where} must be of type 'function' and name its function", param=where)
        function = _plain(f"{where}.function.", function, _FUNCTION, _ADDED)
        check_function(f"{where}.function.", function)
        plain.append({**_plain(f"{where}.", tool, _TOOL, _ADDED), "function": function})
    return plain


def _plain(
    where: str, given: dict[str, Any], served: frozenset[str], added: Mapping[str, Container[Any]]
) -> dict[str, Any]:
    """What was given, without what clients add to it: a template might show that."""
    if given.keys() <= served:
        return given
    check_fields(where, given, served, added)
    return {name: value for name, value in given.items() if name in served}


def _plain_message(where: str, message: dict[str, Any]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise InvalidRequest(
            f"{where}.role is {role!r}; it must be system, user, assistant or tool", param=f"{where}.role"
        )
    if isinstance(content, list):
        parts = [_plain_part(f"{where}.content[{i}]", role, part) for i, part in enumerate(content)]
        content = content_of(parts)
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts", param=f"{where}.content")
    if content is None and role != "assistant":
        raise InvalidRequest(f"{where}.content is missing", param=f"{where}.content")
    plain = {**_plain(f"{where}.", message, _MESSAGE, _ADDED_TO_MESSAGES), "role": role, "content": content or ""}
    if message.get("tool_calls") is not None:
        plain["tool_calls"] = _plain_calls(f"{where}.tool_calls", message["tool_calls"])
    return plain


def _plain_part(where: str, role: str, part: Any) -> str | Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if is_sent(part):  # out of another protocol's words
        return part
    if kind == IMAGE:
        return _plain_image(where, role, part)
    if kind in _OTHER_MEDIA:
        raise InvalidRequest(
            f"{where} is of type {kind!r}, which is not served; pictures are parts of type 'image_url'", param=where
        )
    if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
        raise InvalidRequest(f"{where} must be a part of type 'text' with a text", param=where)
    return _plain(f"{where}.", part, _PART[kind], _ADDED_TO_PARTS)[kind]


def _plain_image(where: str, role: str, part: dict[str, Any]) -> Part:
    if role not in _SEES:
        raise InvalidRequest(f"{where} is a picture in a message of the {role}'s; send it as the user's", param=where)
    _plain(f"{where}.", part, frozenset(_IMAGE), _ADDED_TO_IMAGES)
    image = part.get(IMAGE)
    if not isinstance(image, dict):
        raise InvalidRequest(f"{where}.image_url must be an object with a url", param=f"{where}.image_url")
    check_fields(f"{where}.image_url.", image, ("url", "detail"))
    return image_part(where, image.get("url"), image.get("detail"))


def _plain_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where} must be a list", param=where)
    plain = list[dict[str, Any]]()
    for index, call in enumerate(calls):
        this, function = f"{where}[{index}]", call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{this} must be a function call with a name", param=this)
        function = _plain(f"{this}.function.", function, _CALLED, _ADDED_TO_CALLED)
        plain.append({**_plain(f"{this}.", call, _CALL, _ADDED_TO_CALLS), "function": function})
    return plain
