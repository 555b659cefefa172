"""Functions, and which of them are to be called, in the words of chats."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from server.values.functions import check_function
from server.values.known_fields import check_fields
from wire.errors import InvalidRequest

_TOOL = ("type", "name", "description", "parameters", "strict")
_UNSERVED: Mapping[str, Container[Any]] = {
    "defer_loading": (False,),
    "async": (False,),
    "allowed_callers": (["direct"],),
    "output_schema": (),
}


def chat_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises InvalidRequest for tools that the vendor would carry out."""
    return [_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools)]


def chat_choice(choice: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    """`tool_choice`. Raises InvalidRequest for one that names none, or something else than one function."""
    if choice is None or choice in ("none", "auto", "required"):
        return choice if isinstance(choice, str) else None
    if not isinstance(choice, Mapping) or choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise InvalidRequest(
            "tool_choice is 'none', 'auto', 'required' or {\"type\": \"function\", \"name\": …}", param="tool_choice"
        )
    check_fields("tool_choice.", choice, ("type", "name"))
    return {"type": "function", "function": {"name": choice["name"]}}


def _tool(where: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise InvalidRequest(
            f"{where} is of type {str(tool.get('type'))[:100]!r}, which the vendor would carry out; a model of this "
            "server calls tools of type 'function'",
            param=where,
        )
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise InvalidRequest(f"{where} must name its function", param=where)
    check_fields(f"{where}.", tool, _TOOL, _UNSERVED)
    check_function(f"{where}.", tool)
    given = {key: value for key, value in tool.items() if key in _TOOL[1:] and value is not None}
    return {"type": "function", "function": given}
