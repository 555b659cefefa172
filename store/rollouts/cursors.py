"""Where a page of a list ended: opaque to clients, so that pages stay whole while rows come and go."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from uuid import UUID

from wire.errors import InvalidRequest


def make_cursor(created_at: datetime, row_id: UUID) -> str:
    """Of the last row of a page that is ordered by time and id."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {row_id}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Time and id of that row. Raises InvalidRequest."""
    try:
        time, _, row_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        at = datetime.fromisoformat(time)
        if at.tzinfo is None:
            raise ValueError("a time without a zone")
        return at, UUID(row_id)
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor is not one that this server gave; leave it out to begin with the newest") from None
