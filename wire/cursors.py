"""Where a page of a list ended: opaque to clients, so that pages stay whole while rows come and go."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from wire.errors import InvalidRequest


def make_cursor(*place: int | str | datetime | UUID) -> str:
    """Of the last row of a page: what the list is ordered by."""
    text = json.dumps([value if isinstance(value, int) else str(value) for value in place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(cursor: str, *kinds: type) -> list[Any]:
    """The values, of these kinds, that `make_cursor` was given. Raises InvalidRequest for a cursor of another list."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values: Any = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list):
            raise ValueError(cursor)
        return [_parsed(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error) as error:
        raise InvalidRequest("cursor: not one of this list; send a `next_cursor` as it came, or none") from error


def _parsed(value: Any, kind: type) -> Any:
    if kind is int:
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(value)
        return value
    if not isinstance(value, str):
        raise ValueError(value)
    if kind is datetime:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is None or not 1970 <= parsed.year <= 9000:
            raise ValueError(value)
        return parsed
    return UUID(value) if kind is UUID else value
