"""Ids as JSON has them."""

from __future__ import annotations

from uuid import UUID


def id_or_none(value: UUID | None) -> str | None:
    """The id as text, where there is one."""
    return str(value) if value is not None else None
