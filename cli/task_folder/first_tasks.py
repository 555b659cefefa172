"""The task that a new folder comes with, in numbers that its base can learn in minutes: sums that it gets right now and
then. What it always or never gets right teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FirstTask:
    """Sums of numbers from `lowest` to `highest`. `prompt`: the inside of an f-string with `a` and `b`."""

    prompt: str
    lowest: int
    highest: int
    num_training: int
    num_held_out: int
    max_tokens: int
    steps: int
    learning_rate: float


TINY_ARITH = "tiny-arith"
_OF_BASES = {
    TINY_ARITH: FirstTask("{a}+{b}=?", 10, 39, 64, 32, max_tokens=6, steps=20, learning_rate=7e-4),
    "smollm2": FirstTask("What is {a} + {b}?", 1, 9, 60, 21, max_tokens=24, steps=14, learning_rate=2e-4),
}
"""Tried: tests/e2e/test_task_folder.py."""
_OF_OTHERS = FirstTask(
    "What is {a} + {b}? Answer with the number alone.", 100, 999, 128, 32, max_tokens=64, steps=40, learning_rate=1e-5
)


def first_task(base: str) -> FirstTask:
    """For models that start from this base."""
    return _OF_BASES.get(base, _OF_OTHERS)
