"""Wrong keys at the login form: beyond so many from one address, another wrong one is answered with 429.

A right key opens whatever others sent before it, from the same address or through the same proxy: a key is 256 random
bits, which nobody guesses, so there is nothing to protect by refusing it. The limit is about who sends wrong ones over
and over: it says so, and when to come back.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from wire.errors import UNTIL_MENDED, HeadwayError

_MOST, _WITHIN_S = 10, 60.0
_MOST_ADDRESSES = 10_000


class TooManyAttempts(HeadwayError):
    """A wrong key, after too many of them from one address."""

    status, code, tries = 429, "too_many_attempts", UNTIL_MENDED


class Attempts:
    """Failures by address, in one server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, address: str) -> None:
        """Count a wrong key. Raises TooManyAttempts, with the seconds to wait, when there were too many before it."""
        recent = self._recent(address)
        if len(recent) >= _MOST:
            wait_s = int(recent[0] + _WITHIN_S - self._clock()) + 1
            raise TooManyAttempts(
                f"this key is wrong too, after {_MOST} wrong ones within a minute; try again in {wait_s} s, or with a "
                "right key at once",
                retry_after_s=wait_s,
            )
        recent.append(self._clock())
        self._failures.move_to_end(address)
        while len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def _recent(self, address: str) -> deque[float]:
        failures = self._failures.setdefault(address, deque(maxlen=_MOST))
        while failures and failures[0] <= self._clock() - _WITHIN_S:
            failures.popleft()
        return failures
