"""Numbers of clients' JSON that JSON does not have: NaN, infinities, and what a float is too small for. Python reads
them, and would write them into replies that no other client reads."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from pydantic import BaseModel

from wire.errors import InvalidRequest


def check_finite(request: BaseModel, typed: Container[str] = ()) -> None:
    """Raises InvalidRequest, which names the field, for one that holds such a number at any depth. `typed`: fields that
    are none of them by their type."""
    fields = {name: getattr(request, name) for name in type(request).model_fields if name not in typed}
    for name, value in {**(request.model_extra or {}), **fields}.items():
        if not is_finite(value):
            shown = name if len(name) <= 64 else f"{name[:64]}…"
            raise InvalidRequest(
                f"{shown} holds a number that is not finite, which JSON does not have; send it as text", param=shown
            )


def is_finite(value: Any) -> bool:
    """Whether all numbers within a JSON value are."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            return False
    return True
