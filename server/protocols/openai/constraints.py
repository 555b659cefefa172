"""What an answer has to be, in the words of OpenAI and of vLLM: `response_format`, `structured_outputs`, `guided_…`,
and a `tool_choice` that forces a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from server.protocols.openai.schemas import ChatRequest, SamplingRequest
from server.values.json_schemas import check_schema
from server.values.known_fields import check_fields
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls

MAX_CHOICES = 1024
MAX_PATTERN = 16_384
_UNFORCED = (None, "auto", "none")
_VLLM_SWITCHES = ("disable_fallback", "disable_any_whitespace", "disable_additional_properties", "_backend_was_auto")
_SETS_NOTHING: Mapping[str, tuple[bool | None, ...]] = dict.fromkeys(_VLLM_SWITCHES, (None, False))
"""Settings of vLLM's `structured_outputs` that its clients send along, at values that set nothing."""

RequestedConstraint = tuple[str, Constraint]
"""The parameter that asks for it, and what it asks for."""


def requested_constraint(request: SamplingRequest) -> RequestedConstraint | None:
    """The one constraint of a request. Raises InvalidRequest for one that makes no sense, and for several."""
    asked = [*_of_the_format(request), *_forced_calls(request)]
    if len(asked) > 1:
        names = " and ".join(name for name, _ in asked)
        raise InvalidRequest(f"{names} both constrain the answer: send one of them", param=asked[1][0])
    if not asked:
        return None
    if request.min_tokens or request.ignore_eos:
        setting = "min_tokens" if request.min_tokens else "ignore_eos"
        raise InvalidRequest(
            f"{setting} contradicts {asked[0][0]}: an answer ends when it is complete; leave one out", param=setting
        )
    if isinstance(request, ChatRequest):
        asked[0][1].after_reasoning = request.chat_template_kwargs or {}
    return asked[0]


def _of_the_format(request: SamplingRequest) -> list[RequestedConstraint]:
    asked = list[RequestedConstraint]()
    for name, read in _READERS.items():
        if (given := getattr(request, name)) is not None:
            try:
                constraint = read(name, given)
            except InvalidRequest as error:
                error.param = error.param or name
                raise
            asked += [(name, constraint)] if constraint else []
    return asked


def _forced_calls(request: SamplingRequest) -> list[RequestedConstraint]:
    if not isinstance(request, ChatRequest) or request.tool_choice in _UNFORCED:
        return []
    choice, tools = request.tool_choice, request.tools or []
    if choice == "required":
        if not tools:
            raise InvalidRequest(
                "tool_choice is 'required', but tools is empty: there is nothing to call", param="tool_choice"
            )
        single = request.parallel_tool_calls is False
        return [("tool_choice", Constraint(calls=ForcedCalls(tools=tools, single=single)))]
    name = _function_name(choice)
    chosen = [tool for tool in tools if isinstance(tool.get("function"), dict) and tool["function"].get("name") == name]
    if not chosen:
        raise InvalidRequest(f"tool_choice names the function {name!r}, which is not in tools", param="tool_choice")
    return [("tool_choice", Constraint(calls=ForcedCalls(tools=chosen[:1], single=True)))]


def _function_name(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise InvalidRequest(
            'tool_choice is \'none\', \'auto\', \'required\' or {"type": "function", "function": {"name": …}}',
            param="tool_choice",
        )
    check_fields("tool_choice.", choice, ("type", "function"))
    check_fields("tool_choice.function.", function, ("name",))
    return name


def _response_format(name: str, given: Any) -> Constraint | None:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind in ("text", "json_object"):
        check_fields(f"{name}.", given, ("type",))
        return _json(name, {"type": "object"}) if kind == "json_object" else None
    if kind == "json_schema":
        wrapped = given.get("json_schema")
        if not isinstance(wrapped, dict) or not isinstance(wrapped.get("schema"), dict):
            raise InvalidRequest(f"{name}.json_schema.schema is missing, or not an object")
        check_fields(f"{name}.", given, ("type", "json_schema"))
        check_fields(f"{name}.json_schema.", wrapped, ("name", "description", "schema", "strict"))
        return _json(f"{name}.json_schema.schema", wrapped["schema"])
    raise InvalidRequest(f"{name}.type is {kind!r}; it must be 'text', 'json_object' or 'json_schema'")


def _structured_outputs(name: str, given: Any) -> Constraint | None:
    kinds = {"json": _json, "regex": _regex, "choice": _choice, "grammar": _grammar}
    given = given if isinstance(given, dict) else {}
    stated = {key: value for key, value in given.items() if value not in _SETS_NOTHING.get(key, (None,))}
    if stated.get("json_object") is True:
        stated["json"] = stated.get("json", {"type": "object"})
    stated.pop("json_object", None)
    unknown = sorted(stated.keys() - kinds.keys())
    if len(stated) != 1 or unknown:
        found = f"; it has {', '.join(map(repr, stated))}" if stated else ""
        raise InvalidRequest(f"{name} takes one of json, json_object, regex, choice and grammar{found}")
    ((kind, value),) = stated.items()
    return kinds[kind](f"{name}.{kind}", value)


def _json(name: str, given: Any) -> Constraint:
    schema = _loaded(name, given) if isinstance(given, str) else given
    return Constraint(json_schema=check_schema(name, schema))


def _regex(name: str, given: Any) -> Constraint:
    return Constraint(regex=_pattern(name, given))


def _grammar(name: str, given: Any) -> Constraint:
    return Constraint(grammar=_pattern(name, given))


def _choice(name: str, given: Any) -> Constraint:
    if not isinstance(given, list) or not given or not all(isinstance(option, str) and option for option in given):
        raise InvalidRequest(f"{name} must be a list of texts, none of them empty")
    if len(given) > MAX_CHOICES:
        raise InvalidRequest(f"{name} has {len(given)} options; {MAX_CHOICES} at most")
    return Constraint(choice=given)


def _pattern(name: str, given: Any) -> str:
    if not isinstance(given, str) or not given or "\0" in given:
        raise InvalidRequest(f"{name} must be a text that is not empty")
    if len(given) > MAX_PATTERN:
        raise InvalidRequest(f"{name} is {len(given)} characters long; {MAX_PATTERN} at most")
    return given


def _loaded(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{name} is not JSON") from None


_READERS: Mapping[str, Callable[[str, Any], Constraint | None]] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _json,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
}
