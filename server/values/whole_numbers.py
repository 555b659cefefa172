"""Whole numbers in texts that clients send: headers and fields of forms."""

from __future__ import annotations

_MOST_DIGITS = 18
"""As many as 64 bits hold. Python refuses to read 4,301."""


def whole_number(text: str) -> int | None:
    """The number that these digits write; None for anything else, and for more digits than are of use."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None
