"""A figure that stays over a bound for some steps in a row."""

from __future__ import annotations

from server.guard.history import History, metric
from server.guard.rules.base import Finding


def over_bound(history: History, name: str, bound: float, steps: int, what: str, advice: str) -> Finding | None:
    """Whether the last `steps` steps all have that metric over `bound`, the newest included."""
    if not history.steps or history.steps[-1].metric(name) is None:
        return None
    last = history.last(steps, metric(name))
    if len(last) < steps:
        return None
    if any(value <= bound for _, value in last):
        return None
    values = ", ".join(f"{value:.3g}" for _, value in last)
    where = f"{last[0][0].name} to {last[-1][0].name}" if steps > 1 else last[-1][0].name
    evidence = {
        "metric": name,
        "bound": bound,
        "values": [value for _, value in last],
        "steps": [step.step for step, _ in last],
        "checkpoints": [step.name for step, _ in last],
    }
    return Finding(f"{what} is over {bound:g} ({values} at {where}): {advice}", evidence)
