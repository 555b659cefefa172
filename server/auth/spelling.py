"""The second spelling of a key, which begins with `tml-`: the Tinker SDK sends no other. Both are one key, with one
hash and one row."""

from __future__ import annotations

_TINKER_PREFIX = "tml-"


def tinker_spelling(key: str) -> str:
    """A key as the Tinker SDK takes it."""
    return _TINKER_PREFIX + plain_spelling(key)


def plain_spelling(key: str) -> str:
    """A key as it was issued, from either spelling."""
    return key.removeprefix(_TINKER_PREFIX)
