"""Addresses of pages, with whatever a filter says in them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode


def address(path: str, **parameters: Any) -> str:
    """The path with the parameters that are there: `/traces?status=error`."""
    said = {name: value for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(said)}" if said else path
