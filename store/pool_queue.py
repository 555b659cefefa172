"""Waiting for a connection of a pool: in turn, so many at once, for a limited time.

A pool that is full says that this process has more to do than it can, not that PostgreSQL is away: who cannot wait is
sent away with that sentence, and comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from wire.errors import UNTIL_MENDED, Unavailable

_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many wait for a connection of a pool at most, and for how long each."""

    most_waiting: int = 10_000
    patience_s: float = 30.0


class TooBusy(Unavailable):
    """Every connection of the pool is lent, and too many wait for one, or this one has waited for too long."""

    code: ClassVar[str] = "too_busy"
    tries: ClassVar[int | None] = UNTIL_MENDED


class PoolQueue:
    """The turns of one pool. Belongs to one event loop."""

    def __init__(self, size: int, limits: QueueLimits) -> None:
        self._turns = asyncio.Semaphore(size)
        self._limits = limits
        self.num_waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """The right to a connection, which is then there at once. Raises TooBusy."""
        if self._turns.locked():
            await self._wait()
        else:
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    async def _wait(self) -> None:
        if self.num_waiting >= self._limits.most_waiting:
            raise self._refusal()
        self.num_waiting += 1
        try:
            async with asyncio.timeout(self._limits.patience_s):
                await self._turns.acquire()
        except TimeoutError:
            raise self._refusal() from None
        finally:
            self.num_waiting -= 1

    def _refusal(self) -> TooBusy:
        return TooBusy(
            f"this server has more calls at once than it can work on ({self.num_waiting} wait for their turn at its "
            "database); nothing was done, send fewer at once and try again in a few seconds",
            retry_after_s=_RETRY_AFTER_S,
        )
