"""The problems, and which of them are never trained on.

All ordered pairs of 1…20. A pair and its mirror image (7 + 12, 12 + 7) are on the same side of the split. Plain Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from examples.splits import split_pairs

HIGHEST = 20
NUM_HELD_OUT_PAIRS = 40
SPLIT_SEED = 20  # part of the task, not of a run: every run holds out the same problems
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One sum of two numbers."""

    a: int
    b: int

    @property
    def prompt(self) -> str:
        return f"What is {self.a} + {self.b}?"

    @property
    def answer(self) -> int:
        return self.a + self.b


def split_problems() -> tuple[list[Problem], list[Problem]]:
    """Training problems and held-out problems, disjoint, each in ascending order."""
    training, held_out = split_pairs(1, HIGHEST, NUM_HELD_OUT_PAIRS, SPLIT_SEED)
    return [Problem(*pair) for pair in training], [Problem(*pair) for pair in held_out]


def score(problem: Problem, answer: str | None) -> float:
    """1.0 where the last number of the answer is the sum, else 0.0: "7 + 5 = 12" counts, and so does "12"."""
    numbers = _NUMBER.findall(answer or "")
    return 1.0 if numbers and numbers[-1] == str(problem.answer) else 0.0
