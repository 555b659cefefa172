"""How often somebody may try to sign in. Keys cannot be guessed; this is about load and noise in the log."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from wire.errors import UNTIL_MENDED, HeadwayError

_MOST, _WITHIN_S = 10, 60.0
_MOST_ADDRESSES = 10_000


class TooManyAttempts(HeadwayError):
    """Too many wrong keys from one address."""

    status, code, tries = 429, "too_many_attempts", UNTIL_MENDED


class Attempts:
    """Failures by address, in one server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyAttempts, with the seconds to wait."""
        recent = self._recent(address)
        if len(recent) >= _MOST:
            wait_s = int(recent[0] + _WITHIN_S - self._clock()) + 1
            raise TooManyAttempts(f"too many wrong keys; try again in {wait_s} s", retry_after_s=wait_s)

    def failed(self, address: str) -> None:
        """Count a wrong key."""
        self._failures.setdefault(address, deque(maxlen=_MOST)).append(self._clock())
        self._failures.move_to_end(address)
        while len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def _recent(self, address: str) -> deque[float]:
        failures = self._failures.get(address, deque())
        while failures and failures[0] <= self._clock() - _WITHIN_S:
            failures.popleft()
        return failures
