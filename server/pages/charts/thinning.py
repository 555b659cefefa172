"""Curves of many points as curves of few, which look the same: of each stretch its lowest and its highest point."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most that many (no fewer than 4) of the points, in their order: the first, the last, and the extremes of
    equal stretches between them, so that no peak is lost."""
    if len(points) <= most:
        return points
    inner = points[1:-1]
    stretches = max(1, (most - 2) // 2)
    kept = [points[0]]
    for number in range(stretches):
        stretch = range(len(inner) * number // stretches, len(inner) * (number + 1) // stretches)
        low = min(stretch, key=lambda index: inner[index][1])
        high = max(stretch, key=lambda index: inner[index][1])
        kept += [inner[index] for index in sorted({low, high})]
    return [*kept, points[-1]]
