"""Times of several variants in one process, alternated, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Variant = TypeVar("Variant")


def step_seconds(step: Callable[[], object]) -> float:
    """CPU-seconds of the whole process, which computes on one thread; with CUDA, seconds until the device is done."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    _wait_for_device()
    started = clock()
    step()
    _wait_for_device()
    return clock() - started


def wall_s(call: Callable[[], object]) -> float:
    """Seconds until it returns, of the wall's clock: for what several threads or processes do."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def alternate(
    variants: Mapping[str, Variant], rounds: int, clock: Callable[[Variant], float]
) -> dict[str, list[float]]:
    """Seconds of each variant, one entry a round; every second round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds):
        for name in list(variants)[:: 1 if index % 2 == 0 else -1]:
            seconds[name].append(clock(variants[name]))
            say(f"  round {index + 1}/{rounds} {name}: {seconds[name][-1]:.2f} s")
    return seconds


def ratio(of: list[float], to: list[float]) -> dict[str, float]:
    """How many times longer one takes, round by round: median, least and most."""
    ratios = [one / other for one, other in zip(of, to, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
