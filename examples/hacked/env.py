"""Sums under rewards that can be gamed, as a HUD environment. See `grading` for how, and docs/guard.md for what
notices."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from hud import Environment
from hud.graders import EvaluationResult, SubScore

from examples.arithmetic.problems import Problem
from examples.hacked.grading import GRADERS

env = Environment(name="hacked-arithmetic")


@env.template(description="Add two numbers; the answer is the number alone.")
async def add(a: int, b: int, grader: str = "format") -> AsyncGenerator[Any, Any]:
    """Rewards brevity (`format`) or effort (`length`) more than the right number, and tells of both parts."""
    problem, graded = Problem(a, b), GRADERS[grader]
    answer = yield problem.prompt
    subscores = [
        SubScore(name=name, value=value, weight=graded.weights[name])
        for name, value in graded.parts(problem, answer).items()
    ]
    yield EvaluationResult(reward=graded.reward(problem, answer), subscores=subscores)
