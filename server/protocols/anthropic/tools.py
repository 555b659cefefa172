"""Tools, and which of them are to be called, in the words of chats."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from server.values.functions import check_function
from server.values.known_fields import ANY, check_fields
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls

_TOOL = ("type", "name", "description", "input_schema", "strict")
_UNSERVED: Mapping[str, Container[Any]] = {
    "cache_control": ANY,
    "eager_input_streaming": ANY,
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
_FORCE = ("any", "tool")


def chat_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a chat template shows them. Raises InvalidRequest for those that the vendor would carry out."""
    return [_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools)]


def forced_calls(choice: Mapping[str, Any] | None, tools: Sequence[dict[str, Any]]) -> Constraint | None:
    """What `tool_choice` makes of the answer. `tools`: as in a chat. Raises InvalidRequest."""
    kind = choice_of(choice)
    if choice is None or kind not in _FORCE:
        return None
    named = [tool for tool in tools if kind == "any" or tool["function"]["name"] == choice.get("name")]
    if not named:
        what = "tools is empty" if kind == "any" else f"{choice.get('name')!r} is not in tools"
        raise InvalidRequest(f"tool_choice asks for a call, but {what}", param="tool_choice")
    return Constraint(calls=ForcedCalls(tools=named, single=kind == "tool" or is_single(choice)))


def choice_of(choice: Mapping[str, Any] | None) -> str:
    """Its type, which is `auto` where nothing is chosen. Raises InvalidRequest for another one."""
    if choice is None:
        return "auto"
    kind = choice.get("type")
    if kind not in ("auto", "none", *_FORCE):
        raise InvalidRequest("tool_choice.type must be 'auto', 'any', 'tool' or 'none'", param="tool_choice.type")
    served = ("type", "name") if kind == "tool" else ("type",)
    check_fields("tool_choice.", choice, (*served, "disable_parallel_tool_use"))
    if not isinstance(choice.get("disable_parallel_tool_use"), bool | None):
        where = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{where} must be true or false", param=where)
    return kind


def chat_choice(choice: Mapping[str, Any] | None) -> str | dict[str, Any]:
    """The same in OpenAI's words."""
    kind = choice_of(choice)
    if choice is not None and kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return "required" if kind == "any" else kind


def is_single(choice: Mapping[str, Any] | None) -> bool:
    """Whether an answer may have one call at most."""
    return (choice or {}).get("disable_parallel_tool_use") is True


def _tool(where: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise InvalidRequest(
            f"{where} is of type {str(tool['type'])[:100]!r}, which is the vendor's own; a model of this server calls "
            "tools that have a name and an input_schema",
            param=where,
        )
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name or not isinstance(schema, dict):
        raise InvalidRequest(f"{where} must have a name and an input_schema", param=where)
    check_fields(f"{where}.", tool, _TOOL, _UNSERVED)
    check_function(f"{where}.", tool)
    optional = {"description": tool.get("description"), "parameters": schema, "strict": tool.get("strict")}
    given = {key: value for key, value in optional.items() if value is not None}
    return {"type": "function", "function": {"name": name, **given}}
