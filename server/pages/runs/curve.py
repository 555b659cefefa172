"""The rewards and held-out scores of a run, as the points of two SVG polylines in one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.runs.types import RunMetrics

WIDTH, HEIGHT, _LEFT, _MARGIN = 720, 220, 44, 12


@dataclass(frozen=True, slots=True)
class Curve:
    """`x,y x,y …` of the mean rewards of steps and of held-out scores; low, high: the values at the lower and the upper
    edge; last: the step at the right one."""

    rewards: str
    scores: str
    score_dots: Sequence[tuple[float, float]]
    low: float
    high: float
    last: int


def curve_of(metrics: Sequence[RunMetrics]) -> Curve | None:
    """None while there is nothing to draw."""
    rewards = [(row.step, row.reward) for row in metrics if row.kind == "step" and row.reward is not None]
    scores = [(row.step, row.score) for row in metrics if row.kind == "eval" and row.score is not None]
    known = [value for _, value in (*rewards, *scores)]
    if not known:
        return None
    low, high, last = min(known), max(known), max(step for step, _ in (*rewards, *scores))
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)

    def at(step: int, value: float) -> tuple[float, float]:
        across = (WIDTH - _LEFT - _MARGIN) * (step / last if last else 0.5)
        up = (HEIGHT - 2 * _MARGIN) * (value - low) / (high - low)
        return round(_LEFT + across, 1), round(HEIGHT - _MARGIN - up, 1)

    return Curve(_line(at, rewards), _line(at, scores), [at(*point) for point in scores], low, high, last)


def _line(at: Callable[[int, float], tuple[float, float]], points: Sequence[tuple[int, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
