"""Values that PostgreSQL can hold: it has neither NUL characters, nor half surrogate pairs, nor JSON NaN."""

from __future__ import annotations

import json
import math
from typing import Any

from wire.errors import InvalidRequest

MOST_LEVELS = 200
"""Of lists and objects within one another. Pydantic writes no more than 254."""
_AROUND = 20
"""Levels of an answer around what was sent."""
_CUT = "(nested too deeply to be shown)"


def storable_text(text: str) -> str:
    """The text with what PostgreSQL cannot hold replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def text_or_none(value: Any) -> str | None:
    """A text made storable; None for what is none."""
    return storable_text(value) if isinstance(value, str) else None


def storable_json(value: Any, name: str) -> Any:
    """A JSON value as `readable_value` makes it. `name`: where it was sent. Raises InvalidRequest where it is nested
    too deeply to be read again."""
    refuse_deep(value, name)
    return readable_value(value)


def refuse_deep(value: Any, name: str) -> None:
    """Raises InvalidRequest for a JSON value of more than `MOST_LEVELS` levels."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise InvalidRequest(f"{name} is nested too deeply: send at most {MOST_LEVELS} levels of lists and objects")


def readable_value(value: Any, levels: int = MOST_LEVELS) -> Any:
    """A JSON value with texts made storable, numbers that JSON does not have written as text, and what is nested more
    deeply than so many levels left out."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | dict) and not levels:
        return _CUT
    if isinstance(value, list):
        return [readable_value(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {storable_text(str(key)): readable_value(item, levels - 1) for key, item in value.items()}
    return value


def is_storable(text: str) -> bool:
    """Whether a text could be in the database at all: what is not cannot name anything there."""
    return storable_text(text) == text


def readable_json(value: Any) -> bytes:
    """JSON that every client reads, whatever was recorded: `readable_value` of it."""
    return json.dumps(readable_value(value, MOST_LEVELS + _AROUND)).encode()
