"""The problems, and which of them are never trained on.

All ordered pairs of 10…39, so that every sum has two digits. A pair and its mirror image (17+26, 26+17) are on the
same side of the split. Plain Python: the environment and the base model's corpus both read it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

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
    pairs = [(a, b) for a in range(LOWEST, HIGHEST + 1) for b in range(a, HIGHEST + 1)]
    held_out_pairs = set(random.Random(SPLIT_SEED).sample(pairs, NUM_HELD_OUT_PAIRS))
    training: list[Problem] = []
    held_out: list[Problem] = []
    for a in range(LOWEST, HIGHEST + 1):
        for b in range(LOWEST, HIGHEST + 1):
            side = held_out if (min(a, b), max(a, b)) in held_out_pairs else training
            side.append(Problem(a, b))
    return training, held_out


def score(problem: Problem, answer: str | None) -> float:
    """1.0 for exactly the right number, else 0.0. No partial credit."""
    return 1.0 if (answer or "").strip() == str(problem.answer) else 0.0
