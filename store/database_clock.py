"""PostgreSQL's wall clock, as a process knows it without asking each time.

The clocks of machines differ, by an hour if nobody sets one. What several processes write down in the order of time
carries the time of the one clock that they share. Between two looks at it a process counts with its own monotonic
clock; half a round trip is how far it may be off.

PostgreSQL's clock may be set back. A process that has counted on goes on from where it is, for what it writes down next
happened later; every process that was there does the same, for as long as one rollout lasts. Then it follows, or what a
process writes down that has started since would come before. One that was set forward is followed at once.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_STEP = timedelta(seconds=2)
"""A difference above this is no inexactness of a look."""
_GOES_ON_S = 900.0
"""Without following a clock that was set back."""


class DatabaseClock:
    """This machine's own wall clock until `set` is called for the first time."""

    def __init__(self) -> None:
        self._then, self._monotonic = datetime.now(UTC), time.monotonic()
        self._is_set = False
        self._ahead_since: float | None = None

    def set(self, at: datetime, asked_at: float) -> None:
        """`at`: what PostgreSQL answered just now to a question that was sent at `asked_at` of the monotonic clock."""
        answered_at = time.monotonic()
        if self._is_set and self.now() - at > _STEP + timedelta(seconds=answered_at - asked_at):
            self._ahead_since = self._ahead_since or answered_at
            if answered_at - self._ahead_since < _GOES_ON_S:
                return
        self._then, self._monotonic, self._is_set = at, (asked_at + answered_at) / 2, True
        self._ahead_since = None

    def now(self) -> datetime:
        """In UTC."""
        return self._then.astimezone(UTC) + timedelta(seconds=time.monotonic() - self._monotonic)
