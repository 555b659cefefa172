"""An environment that sleeps and answers: what `bench.rollouts` has thousands of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from hud import Environment

env = Environment(name="sleeping")


@env.template()
async def nap(wait_s: float) -> AsyncGenerator[str | float, str]:
    """Sleeps, asks, and gives a point for any answer."""
    await asyncio.sleep(wait_s)
    answer = yield "How was it?"
    yield 1.0 if answer else 0.0
