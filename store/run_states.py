"""The states of a run in which its model belongs to it, and those in which a server carries it out."""

from __future__ import annotations

CARRIED_OUT = ("queued", "running", "pausing", "cancelling")
LIVE = (*CARRIED_OUT, "paused")


def _in_sql(states: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"'{state}'" for state in states) + ")"


IS_LIVE = f"r.state in {_in_sql(LIVE)}"
IS_CARRIED_OUT = f"r.state in {_in_sql(CARRIED_OUT)}"
"""SQL, both: of a row `r` of `runs`."""
