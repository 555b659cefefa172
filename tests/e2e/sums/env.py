"""Sums, posed at once or after a while: what a hosted rollout plays in the tests."""

import asyncio
import os

from hud import Environment

env = Environment(name="Test_Sums")


@env.template(description="Add two numbers.")
async def add(a: int, b: int, wait_s: float = 0.0):
    """Reward 1.0 for the right number; without it, the share of its digits that are right."""
    await asyncio.sleep(wait_s)
    answer = yield f"{a}+{b}=?"
    text, right = str(answer or "").strip(), str(a + b)
    same = sum(x == y for x, y in zip(text, right, strict=False))
    yield 1.0 if text == right else same / (len(right) + 1)


@env.template(description="Ends with its environment.")
async def die():
    yield "2+2=?"
    os._exit(3)
