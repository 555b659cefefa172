"""What clients say of functions that a policy may call, whichever API they say it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wire.errors import InvalidRequest

_KINDS: Mapping[str, tuple[type, str]] = {
    "description": (str, "a text"),
    "parameters": (dict, "an object, the JSON schema of the arguments"),
    "strict": (bool, "true or false"),
}


def check_function(where: str, function: Mapping[str, Any]) -> None:
    """Raises InvalidRequest, which names the field, for one of another kind. Null counts as left out. `where`: what
    comes before the field's name."""
    for name, (kind, words) in _KINDS.items():
        if not isinstance(function.get(name), kind | None):
            raise InvalidRequest(f"{where}{name} must be {words}", param=f"{where}{name}")
