"""Which process shall die where, and how: every fault point that a kind of process reaches, and random moments."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

ANY_TIME = "any time"
ACTIONS = ("kill", "stop")
PROVOKED = ("replay:", "recompute:", "lease:before-take", "lease:after-take")
"""Points that a trainer reaches when it takes a model over, which needs another to die first."""

_ONLY_KILLED = ("backend", "machine")
"""One of PostgreSQL's own processes; and all processes at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One death. `nth`: on the how-many-th time at the point; for ANY_TIME, after how many hundredths of a second."""

    process: str
    point: str
    nth: int
    action: str


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
