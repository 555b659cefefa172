"""How far this machine's clock is from another one's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from cli.doctor.finding import Finding, State

MOST_APART_S = 30.0
"""Object stores refuse requests that are signed a quarter of an hour off, certificates begin and end, and logs of
several machines are read side by side. What Headway itself compares are times of PostgreSQL's clock alone."""
_DATE_RESOLUTION_S = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """When something was asked, and answered, by this machine's clock."""

    at: float
    answered_at: float

    @classmethod
    def since(cls, at: float) -> Asked:
        """Answered now."""
        return cls(at, time.time())

    def ahead_s(self, there: float) -> float:
        """By how much this machine's clock is ahead of one that showed `there` in between; 0 where the time that the
        answer took explains it."""
        if there < self.at:
            return self.at - there
        return min(0.0, self.answered_at - there)


def clock_finding(part: str, asked: Asked, there: float) -> Finding:
    """Of a clock that showed `there` (seconds since 1970) between question and answer."""
    ahead_s = asked.ahead_s(there)
    if abs(ahead_s) < MOST_APART_S:
        return Finding(part, "clock", State.OK, f"within {max(1.0, abs(ahead_s)):.0f} s of this machine's")
    which = "ahead of" if ahead_s > 0 else "behind"
    remedy = "set the clocks by NTP on both machines"
    return Finding(part, "clock", State.NOT_OK, f"this machine's is {abs(ahead_s):.0f} s {which} it", remedy)


def http_clock_finding(part: str, asked: Asked, date: str | None) -> Finding | None:
    """Of an HTTP `Date`, which has whole seconds; None without a legible one."""
    try:
        there = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    nearest = min(max(asked.at, there), there + _DATE_RESOLUTION_S)
    return clock_finding(part, asked, nearest)
