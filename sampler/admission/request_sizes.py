"""How much a request may ask to be worked through before a token is sampled: tools, schemas, choices, patterns.

What is here costs a sampler some tenths of a second at most. (Building the grammar of 5,000 forced tools takes five
seconds, that of 100,000 choices a minute and a half.) Prompts are `sampler.admission.prompt_limits`'.
"""

from __future__ import annotations

from typing import Any

from wire.errors import InvalidRequest
from wire.sampling import Constraint, GenerateRequest

MAX_TOOLS = 1024
MAX_FORCED_TOOLS = 128
MAX_TOOLS_BYTES = 1024**2
MAX_SCHEMA_BYTES = 256 * 1024
MAX_NESTING = 64
MAX_CHOICES = 1024
MAX_CHOICES_CHARACTERS = 64 * 1024
MAX_PATTERN = 16_384
_NODE_BYTES = 4
"""What an entry of a list or an object adds to JSON at least, roughly."""


def check_sizes(request: GenerateRequest) -> None:
    """Raises InvalidRequest for what would be too much work."""
    for part in (request.chat, request.reading):
        if part is not None and part.tools:
            _check_number("tools", len(part.tools), MAX_TOOLS)
            _check_json("tools", part.tools, MAX_TOOLS_BYTES)
    if request.params.constraint is not None:
        _check_constraint(request.params.constraint)


def _check_constraint(constraint: Constraint) -> None:
    if constraint.calls is not None:
        _check_number("the tools that tool_choice forces", len(constraint.calls.tools), MAX_FORCED_TOOLS)
        _check_json("the tools that tool_choice forces", constraint.calls.tools, MAX_SCHEMA_BYTES)
    if constraint.json_schema is not None:
        _check_json("the JSON schema", constraint.json_schema, MAX_SCHEMA_BYTES)
    if constraint.choice is not None:
        _check_number("the choices", len(constraint.choice), MAX_CHOICES)
        _check_characters("the choices", sum(map(len, constraint.choice)), MAX_CHOICES_CHARACTERS)
    for what, pattern in (("the regex", constraint.regex), ("the grammar", constraint.grammar)):
        _check_characters(what, len(pattern or ""), MAX_PATTERN)


def _check_number(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise InvalidRequest(f"{what} are {number}; {limit} at most")


def _check_characters(what: str, number: int, limit: int) -> None:
    if number > limit:
        raise InvalidRequest(f"{what}: {number} characters; {limit} at most")


def _check_json(what: str, value: Any, limit: int) -> None:
    """Level by level, and no further than the limits."""
    size, level = 0, [value]
    for _ in range(MAX_NESTING):
        following = list[Any]()
        for node in level:
            size += _NODE_BYTES * len(node)
            if isinstance(node, dict):
                size += sum(map(len, node))
            for child in node.values() if isinstance(node, dict) else node:
                if isinstance(child, str):
                    size += len(child)
                elif isinstance(child, (dict, list)):
                    following.append(child)
            if size > limit:
                raise InvalidRequest(f"{what} are larger than {limit} bytes, the most that a sampler works through")
        level = following
        if not level:
            return
    raise InvalidRequest(f"{what} are nested too deeply: objects and arrays may nest {MAX_NESTING} levels")
