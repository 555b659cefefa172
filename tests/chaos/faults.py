"""Which process shall die where, and how: every fault point that a kind of process reaches, and random moments."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

ANY_TIME = "any time"
ACTIONS = ("kill", "stop")
HANG, STALL = "hang", "stall"
"""Stopped for good, or until the other ranks have given it up and nobody else has its leases; nobody is started
beside."""
PROVOKED = ("replay:", "recompute:", "lease:before-take", "lease:after-take")
"""Points that a trainer reaches when it takes a model over, which needs another to die first."""

_ONLY_KILLED = ("backend", "machine")
"""One of PostgreSQL's own processes; and all processes at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One death. `nth`: on the how-many-th time at the point; for ANY_TIME, after how many hundredths of a second.
    rank: of a trainer, which alone shall die; None for whoever gets there."""

    process: str
    point: str
    nth: int
    action: str
    rank: int | None = None

    @property
    def victim(self) -> str:
        """Who shall die."""
        return self.process if self.rank is None else f"rank {self.rank}"

    @property
    def spec(self) -> str:
        """As `wire.process.faults` reads it."""
        where = self.point if self.rank is None else f"{self.point}@{self.rank}"
        return f"{where}:{self.nth}:{'kill' if self.action == 'kill' else 'stop'}"


def all_faults(seen: Mapping[str, set[str]], seed: int) -> list[Fault]:
    """Every point of every kind of process with every action, and the moments; shuffled."""
    draw = random.Random(seed)
    moments = {kind: {ANY_TIME} for kind in (*seen, "postgres", *_ONLY_KILLED)}
    faults = [
        Fault(process, point, draw.randint(1, 100 if point == ANY_TIME else 3), action)
        for process, points in [*seen.items(), *moments.items()]
        for point in sorted(points)
        for action in (("kill",) if process in _ONLY_KILLED else ACTIONS)
    ]
    draw.shuffle(faults)
    return faults
