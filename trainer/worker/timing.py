"""Where the time of one promotion goes, for its line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager


class StageTimer:
    """Measures phases as `measure` does, and keeps the seconds of each; counts the whole from its making on."""

    def __init__(self, measure: Callable[[str], AbstractContextManager[None]]) -> None:
        self._measure = measure
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Generator[None]:
        """Count what the block takes; nothing, if it raises."""
        started = time.perf_counter()
        with self._measure(phase):
            yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started

    def figures(self) -> dict[str, float]:
        """`<phase>_s` of each, and up to now `since_adamw_s`."""
        seconds = {**self._seconds, "since_adamw": time.perf_counter() - self._started}
        return {f"{phase}_s": round(took, 4) for phase, took in seconds.items()}
