"""The rewards of a group as dots on a line, from its lowest bound to its highest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, _MARGIN = 120, 22, 6
_PLACES = 28
_MOST_HEIGHT = 4.5


@dataclass(frozen=True, slots=True)
class Dot:
    """Rewards that lie together; `radius` grows with how many."""

    x: float
    radius: float


@dataclass(frozen=True, slots=True)
class Strip:
    """`label` says in words what the dots show."""

    dots: list[Dot]
    label: str


def strip(rewards: Sequence[float]) -> Strip | None:
    """From 0 to 1 where all rewards are, else from the least to the greatest. None: there are none to show."""
    known = [reward for reward in rewards if math.isfinite(reward)]
    if not known:
        return None
    low, high = min(0.0, *known), max(1.0, *known)
    across = WIDTH - 2 * _MARGIN
    places = Counter(round((reward / 2 - low / 2) / (high / 2 - low / 2) * _PLACES) for reward in known)
    dots = [
        Dot(round(_MARGIN + place / _PLACES * across, 1), round(min(_MOST_HEIGHT, 1.8 + 0.9 * math.sqrt(number)), 1))
        for place, number in sorted(places.items())
    ]
    return Strip(dots, _words(known))


def _words(rewards: Sequence[float]) -> str:
    found = Counter(f"{reward:.3g}" for reward in sorted(rewards))
    values = [f"{text} ({number} times)" if number > 1 else text for text, number in list(found.items())[:12]]
    return "Rewards: " + ", ".join(values) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
