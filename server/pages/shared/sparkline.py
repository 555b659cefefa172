"""A curve the size of a word, as the points of an SVG polyline."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, _MARGIN = 120, 28, 3


def sparkline(values: Sequence[float | None]) -> str:
    """`x,y x,y …` within WIDTH × HEIGHT; empty for fewer than two values."""
    known = [(index, value) for index, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return ""
    low, high = min(value for _, value in known), max(value for _, value in known)
    across = (WIDTH - 2 * _MARGIN) / (len(values) - 1)
    spread = high - low
    return " ".join(
        f"{_MARGIN + index * across:.1f},{_height(0.5 if not spread else (value - low) / spread):.1f}"
        for index, value in known
    )


def _height(share: float) -> float:
    return HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN)
