"""The sums as a HUD environment: a question, the agent's answer, a reward. Runs unchanged on the hosted platform."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from hud import Environment, Task, Taskset

from examples.word_sums.problems import Problem, score

env = Environment(name="word-sums")


@env.template(description="Add two numbers; the answer ends with the sum.")
async def ask(a: int, b: int) -> AsyncGenerator[Any, Any]:
    """Reward 1.0 where the last number is the sum, else 0.0."""
    problem = Problem(a, b)
    answer = yield problem.prompt
    yield score(problem, answer)


def taskset(name: str, problems: Iterable[Problem]) -> Taskset:
    """One task a problem, in the given order."""
    return Taskset(name, [_task(problem) for problem in problems])


def _task(problem: Problem) -> Task:
    return ask(a=problem.a, b=problem.b)
