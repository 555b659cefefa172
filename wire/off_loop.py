"""Work that depends on how much a client sent: at once for little, in a thread for much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_INSTANT_BYTES = 16 * 1024


async def off_loop(num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` on so many bytes. A thread keeps the event loop free, and takes longer to wake up than a
    few kilobytes take to be worked on."""
    if num_bytes <= _INSTANT_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
