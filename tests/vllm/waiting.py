"""Waiting for what nothing signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.vllm.conftest import START_TIMEOUT_S


async def until(condition: Callable[[], object]) -> None:
    """For as long as vLLM may take to start."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
