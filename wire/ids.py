"""Ids as people write them."""

from __future__ import annotations

from uuid import UUID


def as_uuid(text: str) -> UUID | None:
    """The text as an id, hex or dashed; None when it is none."""
    try:
        return UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None
