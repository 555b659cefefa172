"""Values that PostgreSQL can hold: it knows neither NUL characters, nor half surrogate pairs, nor JSON NaN."""

from __future__ import annotations

import json
import math
from typing import Any


def storable_text(text: str) -> str:
    """The text with what PostgreSQL cannot hold replaced by U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def text_or_none(value: Any) -> str | None:
    """A text made storable; None for what is none."""
    return storable_text(value) if isinstance(value, str) else None


def storable_json(value: Any) -> Any:
    """A JSON value with texts made storable, and numbers that JSON does not have written as text."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [storable_json(item) for item in value]
    if isinstance(value, dict):
        return {storable_text(str(key)): storable_json(item) for key, item in value.items()}
    return value


def is_storable(text: str) -> bool:
    """Whether a text could be in the database at all: what is not cannot name anything there."""
    return storable_text(text) == text


def readable_json(value: Any) -> bytes:
    """JSON that every client reads, whatever was recorded: half surrogate pairs and numbers that JSON does not have
    are written as `storable_json` writes them."""
    return json.dumps(storable_json(value)).encode()
