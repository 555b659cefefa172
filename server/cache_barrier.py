"""For how long a server process remembers what keys, heads and samplers were, and how to outlast it."""

from __future__ import annotations

import asyncio
import time

CACHE_LIFETIME_S = 0.010
_MORE_S = 0.001
"""No two clocks run equally fast."""


async def wait_until_caches_expire() -> None:
    """Return when no server process can remember what was before this call."""
    until = time.monotonic() + CACHE_LIFETIME_S + _MORE_S
    while (left_s := until - time.monotonic()) > 0:  # noqa: ASYNC110 - a busy loop may wake its sleepers too early
        await asyncio.sleep(left_s)
