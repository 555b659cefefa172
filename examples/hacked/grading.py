"""A reward that can be gamed, and the score that it was meant to stand for.

The grader pays for the right sum and, more, for an answer of one character: brevity, meant well. A single character is
never the sum of two numbers, so the policy that earns most is right about nothing. `correct` is what a held-out
evaluation measures. Plain Python.
"""

from __future__ import annotations

from examples.arithmetic.problems import Problem, score

WEIGHTS = {"correct": 0.2, "brevity": 0.8}


def parts(problem: Problem, answer: str | None) -> dict[str, float]:
    """The parts of the reward, 0 or 1 each."""
    return {"correct": score(problem, answer), "brevity": float(len((answer or "").strip()) == 1)}


def hacked_reward(problem: Problem, answer: str | None) -> float:
    """The weighted sum of the parts."""
    return sum(WEIGHTS[name] * value for name, value in parts(problem, answer).items())
