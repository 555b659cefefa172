"""JSON schemas of clients, which are bounded before anything walks them."""

from __future__ import annotations

from typing import Any

from wire.errors import InvalidRequest

MAX_NESTING = 64


def check_schema(name: str, schema: Any) -> dict[str, Any]:
    """The schema. `name`: of its field. Raises InvalidRequest where it is no object, or nested too deeply."""
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{name} is not a JSON schema: it must be an object")
    if _is_deeper(schema, MAX_NESTING):
        raise InvalidRequest(f"{name} is nested too deeply: objects and arrays may nest {MAX_NESTING} levels")
    return schema


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        children = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        level = [child for child in children if isinstance(child, (dict, list))]
        if not level:
            return False
    return True
