"""Where a rank of a group shall die: every point of a pass and of a step, on each rank that gets there."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.chaos.faults import ACTIONS, ANY_TIME, HANG, STALL, Fault
from wire.process.faults import POINTS

MAX_RANKS = 4

_OF_RANKS = ("open", "forward", "backward", "adamw", "canary")
_OF_GROUPS = ("call", "gather", "sum")
_OF_WORKERS = ("replay", "complete", "step")
"""Of rank 0, which alone writes."""

_AWAITED = (
    "call:after-receive",
    "call:before-conclude",
    "forward:before-vote",
    "gather:before-issue",
    "open:after-read",
    "sum:before-exchange",
    "sum:before-collect",
)
"""Where all others wait for a rank."""

_OFTEN = {"gather": 60, "forward": 8, "backward": 6, "call": 6}
"""How often a point is passed before it is the one, at most; three times elsewhere."""


def reaches(fault: Fault, num_ranks: int) -> bool:
    """Whether a trainer of so many ranks has that rank, and gets to that point."""
    of_group = _process(fault.point) in _OF_GROUPS or fault.action in (HANG, STALL)
    return (fault.rank or 0) < num_ranks and (num_ranks > 1 or not of_group)


def group_faults(seed: int) -> list[Fault]:
    """Shuffled; the third of four ranks comes last, for it is as the second."""
    draw = random.Random(seed)
    faults = [*_at_points(draw), *_at_any_time(draw)]
    draw.shuffle(faults)
    return sorted(faults, key=lambda fault: fault.rank == 2)


def _at_points(draw: random.Random) -> Iterator[Fault]:
    for point in sorted(POINTS):
        nth = _OFTEN.get(_process(point), 3)
        for rank in _ranks_at(point):
            for action in (*ACTIONS, *([STALL] if point in _AWAITED and rank < 2 else [])):
                yield Fault("trainer", point, draw.randint(1, nth), action, rank)


def _at_any_time(draw: random.Random) -> Iterator[Fault]:
    for rank in range(MAX_RANKS):
        for action in (*ACTIONS, HANG):
            yield Fault("trainer", ANY_TIME, draw.randint(1, 100), action, rank)
    yield Fault("trainer", "sum:before-exchange", 1, HANG, 0)
    yield Fault("trainer", ANY_TIME, draw.randint(1, 100), "kill")  # the agent


def _ranks_at(point: str) -> range:
    if point == "call:before-send":
        return range(1)
    if point == "call:after-receive":
        return range(1, MAX_RANKS)
    if _process(point) in (*_OF_RANKS, *_OF_GROUPS):
        return range(MAX_RANKS)
    return range(1 if _process(point) in _OF_WORKERS else 0)


def _process(point: str) -> str:
    return point.partition(":")[0]
