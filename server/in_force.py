"""Changes that a chat depends on are acknowledged when they are in force everywhere: `server.gateway.lookups` remembers
for a moment what keys, heads and samplers were, and in that moment a chat may still see what was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from fastapi import Depends

from server.gateway import lookups

_MORE_S = 0.001
"""No two clocks run equally fast."""


async def outlast_what_is_remembered() -> None:
    """Return when no server process can remember what was before this call."""
    until = time.monotonic() + lookups.REMEMBERED_S + _MORE_S
    while (left_s := until - time.monotonic()) > 0:  # noqa: ASYNC110 - a busy loop may wake its sleepers too early
        await asyncio.sleep(left_s)


async def _outlasting() -> AsyncGenerator[None]:
    yield
    await outlast_what_is_remembered()


InForce = Depends(_outlasting, scope="function")
"""For routes: their answer goes out when no server process can have an older answer in mind."""
