"""Sums under a reward that can be gamed, as a HUD environment. See `grading` for how, and docs/guard.md for what
notices."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from hud import Environment
from hud.graders import EvaluationResult, SubScore

from examples.arithmetic.problems import Problem
from examples.hacked.grading import WEIGHTS, hacked_reward, parts

env = Environment(name="hacked-arithmetic")


@env.template(description="Add two numbers; the answer is the number alone.")
async def add(a: int, b: int) -> AsyncGenerator[Any, Any]:
    """Rewards brevity more than the right number, and tells of both parts."""
    problem = Problem(a, b)
    answer = yield problem.prompt
    subscores = [
        SubScore(name=name, value=value, weight=WEIGHTS[name]) for name, value in parts(problem, answer).items()
    ]
    yield EvaluationResult(reward=hacked_reward(problem, answer), subscores=subscores)
