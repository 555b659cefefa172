"""Environments that come with the runner."""

from __future__ import annotations

# Name -> module.
BUILTIN: dict[str, str] = {}
