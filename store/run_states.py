"""The states of a run in which its model belongs to it."""

from __future__ import annotations

LIVE = ("queued", "running", "pausing", "paused", "cancelling")

IS_LIVE = "r.state in (" + ", ".join(f"'{state}'" for state in LIVE) + ")"
"""SQL: of a row `r` of `runs`."""
