"""An environment that sleeps and answers: what `bench.rollouts` has thousands of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from hud import Environment

env = Environment(name="sleeping")


@env.template()
async def nap(until: float) -> AsyncGenerator[str | float, str]:
    """Sleeps until that time, asks, and gives a point for any answer."""
    await asyncio.sleep(max(0.0, until - time.time()))
    answer = yield "How was it?"
    yield 1.0 if answer else 0.0
