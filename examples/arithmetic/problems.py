"""The problems, and which of them are never trained on.

All ordered pairs of 10…39, so that every sum has two digits. A pair and its mirror image (17+26, 26+17) are on the
same side of the split. Plain Python: the environment and the base model's corpus both read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from examples.splits import split_pairs

LOWEST, HIGHEST = 10, 39
NUM_HELD_OUT_PAIRS = 50
SPLIT_SEED = 20  # part of the task, not of a run: every run holds out the same problems


@dataclass(frozen=True, slots=True)
class Problem:
    """One sum of two numbers."""

    a: int
    b: int

    @property
    def prompt(self) -> str:
        return f"{self.a}+{self.b}=?"

    @property
    def answer(self) -> int:
        return self.a + self.b


def split_problems() -> tuple[list[Problem], list[Problem]]:
    """Training problems and held-out problems, disjoint, each in ascending order."""
    training, held_out = split_pairs(LOWEST, HIGHEST, NUM_HELD_OUT_PAIRS, SPLIT_SEED)
    return [Problem(*pair) for pair in training], [Problem(*pair) for pair in held_out]


def score(problem: Problem, answer: str | None) -> float:
    """1.0 for exactly the right number, else 0.0. No partial credit."""
    return 1.0 if (answer or "").strip() == str(problem.answer) else 0.0
