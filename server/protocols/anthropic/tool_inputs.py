"""A call's arguments, which are whatever text the policy wrote, as the object that a `tool_use` block has."""

from __future__ import annotations

import json
from typing import Any

_UNREADABLE = "INVALID_JSON"
"""The one field of an input that stands for arguments which are no JSON object, as HUD's agents call it."""


def input_of(arguments: str) -> dict[str, Any]:
    """Of a call. What cannot be an input becomes one that holds it, so that an agent can say what is wrong with it."""
    try:
        read = json.loads(arguments or "{}")
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {_UNREADABLE: arguments}


def arguments_of(given: dict[str, Any]) -> str:
    """What the policy wrote, or another spelling of the same."""
    if given.keys() == {_UNREADABLE} and isinstance(given[_UNREADABLE], str):
        return given[_UNREADABLE]
    return json.dumps(given, ensure_ascii=False)
