"""JSON schemas on their way into a grammar: with bounded blanks, and without what llguidance does not keep or survive.

The local backend hands them to llguidance, vLLM to xgrammar. Left alone these allow any number of blanks between two
parts of a JSON text, and a policy that has not learned to write JSON may write nothing else. Over the smallest integers
of 64 bits and over long chains of references llguidance recurses until the process dies (1.9); what passes here needs
the stack of `backends.local.deep_threads`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from wire.errors import InvalidRequest

MAX_BLANKS = 16
"""Between two parts of a JSON text: a line break and an indent of seven levels."""
MAX_OBJECTS = 2_000
_OPTIONS = "x-guidance"
_BOUNDED: Mapping[str, Any] = {"whitespace_flexible": True, "whitespace_pattern": rf"[ \t\r\n]{{0,{MAX_BLANKS}}}"}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LARGEST_BOUND = 2**62
_LARGEST_EXACT = 2**53
_ANNOTATIONS = ("default", "examples")
_DIRECTIVE = re.compile(r"%(?:json|llguidance|lark|regex)\b")


def bounded_schema(schema: Mapping[str, Any]) -> str:
    """The schema as JSON, with llguidance's options for it. Raises InvalidRequest for what would not be kept."""
    num_objects = 0
    for keyword, value in _parts(schema):
        if isinstance(value, dict) and (num_objects := num_objects + 1) > MAX_OBJECTS:
            raise InvalidRequest(f"the JSON schema has more than {MAX_OBJECTS} objects in it; send a smaller one")
        if isinstance(value, (int, float)) and _is_out_of_reach(keyword, value):
            raise InvalidRequest(
                f"the JSON schema has {keyword} {str(value)[:50]}: no answer can be held to this number"
            )
    try:
        return json.dumps({**schema, _OPTIONS: _BOUNDED}, allow_nan=False)
    except ValueError as error:  # also of integers with more digits than Python prints
        raise InvalidRequest(f"the JSON schema has a number that JSON cannot hold: {error}") from error


def function_parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments, which are an object whatever it says. One without parameters has none, as
    OpenAI defines it."""
    if function.get("strict") is False:
        return {"type": "object"}
    schema = function.get("parameters") or {"properties": {}, "additionalProperties": False}
    return {"type": "object", **schema} if isinstance(schema, dict) else {"type": "object"}


def plain_grammar(grammar: str) -> str:
    """A Lark grammar. Raises InvalidRequest for one that embeds a schema, which would come with endless blanks."""
    if found := _DIRECTIVE.search(grammar):
        raise InvalidRequest(f"a grammar cannot hold {found[0]} here; send a JSON schema by itself")
    return grammar


def _is_out_of_reach(keyword: str, number: float) -> bool:
    if keyword in _BOUNDS:
        return abs(number) >= _LARGEST_BOUND
    return isinstance(number, int) and abs(number) > _LARGEST_EXACT  # constants are compared as floats


def _is_annotation(name: str, value: Any) -> bool:
    return name in _ANNOTATIONS and not isinstance(value, dict)  # a property may have that name


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything in a schema, with the key that it stands under."""
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting += [(name, part) for name, part in value.items() if not _is_annotation(name, part)]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
