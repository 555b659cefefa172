"""Two-digit sums as an environment to be deployed: `hud deploy` from this folder."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from hud import Environment

env = Environment(name="arithmetic")


@env.template(description="Add two numbers; the answer is the number alone.")
async def add(a: int, b: int) -> AsyncGenerator[Any, Any]:
    """Reward 1.0 for exactly the right number, else 0.0."""
    answer = yield f"{a}+{b}=?"
    yield float((answer or "").strip() == str(a + b))
