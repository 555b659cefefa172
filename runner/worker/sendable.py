"""What users' code wrote, made such that it can be sent: JSON in UTF-8 holds no half surrogate pairs, which Python
reads from file names and escapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def sendable_text(text: str) -> str:
    """With `?` in place of each half."""
    return text.encode("utf-8", "replace").decode()


def sendable_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for every text in it. Raises ValueError for what is no JSON, or nested too deeply."""
    try:
        return json.loads(sendable_text(json.dumps(values, ensure_ascii=False)))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
