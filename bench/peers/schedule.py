"""How long each part of a race may take, so that all of it ends in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Schedule:
    """What is left of the time is divided evenly among the parts that are left: what one does not need is the next's.
    clock: in seconds."""

    def __init__(self, minutes: float, num_parts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._parts, self._left = clock, num_parts, num_parts
        self._began_at = clock()
        self._end_at = self._began_at + 60 * minutes

    @contextmanager
    def place(self) -> Generator[Callable[[], bool]]:
        """For one part. Yields whether its time is over."""
        until = self._clock() + max(0.0, self._end_at - self._clock()) / self._left
        yield lambda: self._clock() >= until
        self._left -= 1

    def progress(self) -> str:
        """For people: parts, time so far, and the end if the parts that are left take as long as those before."""
        done, took_s = self._parts - self._left, self._clock() - self._began_at
        end = time.strftime("%H:%M", time.localtime(time.time() + took_s / done * self._left)) if done else "?"
        return f"{done} of {self._parts} tables after {took_s / 60:.1f} minutes; ends at about {end}"
