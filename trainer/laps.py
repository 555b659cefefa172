"""Where the time of a promotion goes, for the log."""

from __future__ import annotations

from collections.abc import Callable


class Laps:
    """Seconds from one end to the next, the first from the making on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._seconds: dict[str, float] = {}

    def end(self, lap: str) -> None:
        """What was going on since the last end was this."""
        now = self._clock()
        self._seconds[lap] = now - self._since
        self._since = now

    def figures(self) -> dict[str, float]:
        """`<lap>_s` of each that has ended."""
        return {f"{lap}_s": round(seconds, 4) for lap, seconds in self._seconds.items()}
