"""What pydantic found wrong with a request, as one sentence that names the field as the client wrote it.

Pydantic reports a value that fits no member of a union once for each member, with the member's type in the location:
here these become one place, and all that may be there. Where its words name types of Python, ours stand instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from wire.errors import InvalidRequest

_MOST_SHOWN = 100
_MOST_LOOKED_AT = 100
_PARTS = ("body", "query", "path", "header", "cookie")
_TAG = re.compile(
    r"^(function-\w+|nullable|lax-or-strict|json-or-python|is-instance|literal|tagged-union|union|list"
    r"|dict|set|tuple|model|definition-ref|default|chain)\W|^constrained-"
    r"|^[A-Z]\w*$"  # a class: no field of ours is written so
)
_PLAIN_TAGS = {"str", "int", "float", "bool", "none", "any", "bytes", "uuid", "datetime", "date", "dict", "list"}

_WORDS = {
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "dataclass_type": "should be an object",
    "dict_type": "should be an object",
    "mapping_type": "should be an object",
    "tuple_type": "should be a valid list",
    "set_type": "should be a valid list",
    "none_required": "should be null",
    "string_unicode": "holds half a surrogate pair, which is not a character",
    "string_pattern_mismatch": "has a form that is not allowed here",
    "recursion_loop": "is nested too deeply",
}
"""Of errors in which pydantic names a type of Python, or a pattern."""

Error = Mapping[str, Any]
ModelT = TypeVar("ModelT", bound=BaseModel)


def read_as(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    """JSON that was parsed already, as `model`. Raises InvalidRequest."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False)) from None


def first_problem(errors: Sequence[Error], body: Any = None) -> str:
    """The first error as a sentence, together with those about the same value. `body`: what was sent, where it is at
    hand: with it, every type in a location is recognised."""
    error = _telling(errors, body)
    place = _place(error, body)
    at_place = [other for other in errors[:_MOST_LOOKED_AT] if _place(other, body) == place]
    field, kind = field_name(place), error["type"]
    if kind == "json_invalid":
        return f"the body is not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    if kind == "missing":
        return f"{field} is missing" if field else "the request needs a JSON body"
    if kind == "extra_forbidden":
        return f"unknown field {field}"
    if not field and _words(error) == _WORDS["model_type"]:
        return "the body must be a JSON object, sent as Content-Type: application/json"
    return f"{field or 'the body'}: {_either(at_place)}"


def first_field(errors: Sequence[Error], body: Any = None) -> str | None:
    """The name of the field that `first_problem` is about; None where it is the whole body."""
    return field_name(_place(_telling(errors, body), body)) or None if errors[0]["type"] != "json_invalid" else None


def _telling(errors: Sequence[Error], body: Any) -> Error:
    """The first error; but where a value is of another kind than a union's first member, what is wrong with it, or
    within it, for a later one, of whose kind it is."""
    if not _is_of_another_kind(errors[0]):
        return errors[0]
    first = _place(errors[0], body)
    places = ((error, _place(error, body)) for error in errors[1:_MOST_LOOKED_AT])
    same = [(error, place) for error, place in places if place[: len(first)] == first]
    of_right_kind = [error for error, _ in same if not _is_of_another_kind(error)]
    deeper = [error for error, place in same if len(place) > len(first)]
    return [*of_right_kind, *deeper, errors[0]][0]


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """The refusal of a request in which pydantic found these; it names the field as OpenAI's clients read it."""
    return InvalidRequest(first_problem(errors), param=first_field(errors))


def field_name(location: Sequence[int | str]) -> str:
    """`("inputs", 3, "reward")` as `inputs[3].reward`. Where a request part comes first, it is left out."""
    parts = list(location)
    if parts and parts[0] in _PARTS:
        parts = parts[1:]
    name = ""
    for part in parts:
        shown = part if isinstance(part, int) else _shown(part)
        name += f"[{shown}]" if isinstance(part, int) else f".{shown}" if name else str(shown)
    return name


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def _place(error: Error, body: Any) -> tuple[int | str, ...]:
    """The location without types: parts that lead to nothing in what was sent, but a field that is missing in it."""
    location = list(error["loc"])
    kept, rest = (location[:1], location[1:]) if location and location[0] in _PARTS else ([], location)
    value: Any = body
    is_known = isinstance(body, list | dict) and kept in ([], ["body"])
    for index, part in enumerate(rest):
        is_missing = error["type"] == "missing" and index == len(rest) - 1
        try:
            inner = value[part] if is_known else None
        except (LookupError, TypeError):
            if is_missing:
                kept.append(part)
            continue
        if is_known or is_missing or not _is_type(part):
            value = inner
            kept.append(part)
    return tuple(kept)


def _is_type(part: int | str) -> bool:
    return isinstance(part, str) and (part in _PLAIN_TAGS or _TAG.match(part) is not None)


def _either(errors: Sequence[Error]) -> str:
    """What is wrong with a value that is of a kind that it may be; else all the kinds that it may be."""
    of_right_kind = [error for error in errors if not _is_of_another_kind(error)]
    if of_right_kind:
        return _words(of_right_kind[0])
    kinds = list(dict.fromkeys(_words(error).partition(",")[0].removeprefix("should be ") for error in errors))
    return _words(errors[0]) if len(kinds) == 1 else f"should be {', '.join(kinds[:-1])} or {kinds[-1]}"


def _is_of_another_kind(error: Error) -> bool:
    return _words(error).startswith("should be ") and (
        error["type"] in (*_WORDS, "is_instance_of")
        or str(error["type"]).endswith(("_type", "_parsing", "_from_float"))
    )


def _words(error: Error) -> str:
    if error["type"] == "string_pattern_mismatch":
        pattern = error.get("ctx", {}).get("pattern", "another form")
        return f"{_WORDS[error['type']]}: it must match {pattern}"
    if words := _WORDS.get(error["type"]):
        return words
    if error["type"] == "is_instance_of":
        return f"should be a valid {error['ctx']['class']}"
    problem = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{problem[:1].lower()}{problem[1:]}".replace(" after validation", "")
