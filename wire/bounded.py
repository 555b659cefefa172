"""Requests are refused at their first fault: a list with a million wrong items must not make a million errors.

Lists have pydantic's `fail_fast`; mappings, for which there is none, `FEW_ENTRIES`.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from pydantic import BeforeValidator

_MOST_ENTRIES = 1000


def few_entries(value: Any) -> Any:
    """The value. Raises ValueError where it has more entries than any request of ours needs."""
    if isinstance(value, Sized) and len(value) > _MOST_ENTRIES:
        raise ValueError(f"must not have more than {_MOST_ENTRIES} entries")
    return value


FEW_ENTRIES = BeforeValidator(few_entries)
