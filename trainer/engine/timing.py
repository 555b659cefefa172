"""Where the time of a pass goes.

On an accelerator each phase ends in a question whose answer the CPU waits for (is everything finite?), so that work
is counted in the phase that asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["plan", "forward", "loss", "backward"]


class PhaseTimer:
    """Adds up the seconds of each phase, and of the whole from its making on."""

    def __init__(self, clock: Callable[[], float], plan_s: float = 0.0) -> None:
        """plan_s: that planning took before."""
        self._clock = clock
        self._started = clock() - plan_s
        self._seconds: dict[Phase, float] = {"plan": plan_s, "forward": 0.0, "loss": 0.0, "backward": 0.0}

    @contextmanager
    def __call__(self, phase: Phase) -> Generator[None]:
        """Count what the block takes; nothing, if it raises."""
        started = self._clock()
        yield
        self._seconds[phase] += self._clock() - started

    def metrics(self) -> dict[str, float]:
        """`seconds:sum` up to now, and `seconds_<phase>:sum`."""
        phases = {f"seconds_{phase}:sum": seconds for phase, seconds in self._seconds.items()}
        return {"seconds:sum": self._clock() - self._started, **phases}
