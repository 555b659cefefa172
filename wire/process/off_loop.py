"""Work that depends on how much a client sent: at once for little, in a thread for much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_INSTANT_BYTES = 16 * 1024


def takes_long(num_bytes: int) -> bool:
    """Whether work on so many bytes is worth a thread."""
    return num_bytes > _INSTANT_BYTES


async def off_loop(num_bytes: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` on so many bytes. A thread keeps the event loop free, and takes longer to wake up than a
    few kilobytes take to be worked on."""
    if not takes_long(num_bytes):
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
