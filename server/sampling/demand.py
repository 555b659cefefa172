"""Reports to the database what this process is asked to sample, by base: so that samplers can be started and ended by
what is asked of them, however many servers there are.

Requests only count here. A base is written at most every REPORTED_EVERY_S while something is under way, once more when
that has ended, and at once when a request comes after silence: that one may have to wait for a sampler to start.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager
from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, AsyncDatabase
from store.planes.sampler_demand import Asked, report_demand
from store.planes.scaling_policy import REPORTED_EVERY_S
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_RETRY_S = 1.0


class DemandReports:
    """Those of one server process, which is number `server`. Belongs to one event loop."""

    def __init__(self, database: AsyncDatabase, server: int, every_s: float = REPORTED_EVERY_S) -> None:
        self._database, self._server, self._every_s = database, server, every_s
        self._running, self._waiting = Counter[UUID](), Counter[UUID]()
        self._asked_at: dict[UUID, float] = {}
        self._reported_at: dict[UUID, float] = {}
        self._unreported = set[UUID]()
        self._is_due = asyncio.Event()
        rhythm = Rhythm(every_s, failed="demand_not_reported", retry_s=_RETRY_S)
        self._reporting = RepeatedTask(self.report, rhythm, self._until_due)

    def start(self) -> None:
        """Begin."""
        self._reporting.start()

    async def close(self) -> None:
        """Report for the last time: nothing is under way here any more."""
        await self._reporting.close()
        try:
            await self._write(set(self._asked_at))
        except DATABASE_AWAY as away:
            log.warning("demand_not_reported", error=str(away).partition("\n")[0])

    def asked(self, base_id: UUID) -> None:
        """A request for the base has come."""
        self._unreported.add(base_id)
        now = self._asked_at[base_id] = time.monotonic()
        if now - self._reported_at.get(base_id, float("-inf")) >= self._every_s:
            self._is_due.set()

    @contextmanager
    def running(self, base_id: UUID, num_sequences: int) -> Generator[None]:
        """Sequences that a sampler of the base works on until the block ends."""
        with self._counted(self._running, base_id, num_sequences):
            yield

    @contextmanager
    def waiting(self, base_id: UUID, num_sequences: int) -> Generator[None]:
        """Sequences that wait for a sampler of the base until the block ends."""
        with self._counted(self._waiting, base_id, num_sequences):
            yield

    async def report(self) -> None:
        """Write what has changed, and what is under way."""
        self._is_due.clear()
        under_way = {*+self._running, *+self._waiting}
        due = time.monotonic() - self._every_s
        await self._write(
            {
                base_id
                for base_id in self._unreported | under_way
                if self._reported_at.get(base_id, float("-inf")) <= due
            }
        )

    async def _write(self, bases: Collection[UUID]) -> None:
        if not bases:
            return
        now = time.monotonic()
        rows = [self._row(base_id, now) for base_id in bases]
        self._unreported.difference_update(bases)
        self._reported_at.update(dict.fromkeys(bases, now))
        try:
            async with self._database.connection() as connection:
                await report_demand(connection, self._server, rows)
        except BaseException:
            self._unreported.update(bases)
            for base_id in bases:
                self._reported_at.pop(base_id, None)
            raise

    def _row(self, base_id: UUID, now: float) -> Asked:
        running, waiting = self._running[base_id], self._waiting[base_id]
        if running or waiting:
            self._asked_at[base_id] = now
        return Asked(base_id, now - self._asked_at[base_id], running, waiting)

    @contextmanager
    def _counted(self, counts: Counter[UUID], base_id: UUID, num_sequences: int) -> Generator[None]:
        self._asked_at[base_id] = time.monotonic()
        counts[base_id] += num_sequences
        try:
            yield
        finally:
            counts[base_id] -= num_sequences
            self._asked_at[base_id] = time.monotonic()
            self._unreported.add(base_id)

    async def _until_due(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_due.wait()
        except TimeoutError:
            return
