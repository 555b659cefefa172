"""PostgreSQL's wall clock, as a process knows it without asking each time.

The clocks of machines differ, by an hour if nobody sets one. What several processes write down in the order of time
carries the time of the one clock that they share. Between two looks at it a process counts with its own monotonic
clock; half a round trip is how far it may be off.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class DatabaseClock:
    """This machine's own wall clock until `set` is called for the first time."""

    def __init__(self) -> None:
        self._then, self._monotonic = datetime.now(UTC), time.monotonic()

    def set(self, at: datetime, asked_at: float) -> None:
        """`at`: what PostgreSQL answered just now to a question that was sent at `asked_at` of the monotonic clock."""
        self._then, self._monotonic = at, (asked_at + time.monotonic()) / 2

    def now(self) -> datetime:
        """In UTC."""
        return self._then.astimezone(UTC) + timedelta(seconds=time.monotonic() - self._monotonic)
