"""Writes samples into the database in batches: whatever waits is one transaction, while the next batch gathers. What is
large goes through a queue of its own, so that nobody waits while it is packed.

A completion waits for its batch, so a client that has its answer can train on it. Trouble never costs a completion:
after `patience_s` it goes out, the sample counts as lost, and its trace is flagged as soon as the database is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from server.metrics.instruments import ServerMetrics
from store.blob_stores import BlobStore
from store.database import DATABASE_AWAY, AsyncDatabase
from store.database_clock import DatabaseClock
from store.rollouts import KnownSamples, NewSample, TraceRecord, record
from wire.errors import Unavailable
from wire.process.off_loop import off_loop, takes_long

log = structlog.get_logger(__name__)

NOT_RECORDED = "samples_not_recorded"
"""Flag of a trace of which the gateway served something that it could not record."""

_AWAY = (*DATABASE_AWAY, Unavailable)
"""The database, or the store of what is too large for it."""
_MOST_WAITING = 8192
_MOST_AT_ONCE = 256
_PAUSE_S = 0.2
_LONG_S = 0.1
"""A batch that takes longer waits for something, which may be what the others need not wait for."""
_MOST_FLAGGED = 100_000


@dataclass(frozen=True, slots=True)
class Served:
    """The samples of one completion. `make` builds them; `num_bytes`: of their token ids, and of the request."""

    team_id: UUID
    trace_id: UUID
    model: str
    num_bytes: int
    make: Callable[[], list[NewSample]]


@dataclass(slots=True)
class _Waiting:
    served: Served
    done: asyncio.Future[None]
    patience_ends: float


@dataclass(slots=True)
class Recorder:
    """One of each server process."""

    database: AsyncDatabase
    blobs: BlobStore
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    patience_s: float = 5.0
    clock: DatabaseClock = field(default_factory=DatabaseClock)
    """By which samples are ordered, whichever server recorded them."""
    num_recorded: int = 0
    """Completions."""
    num_lost: int = 0
    _queue: asyncio.Queue[_Waiting] = field(default_factory=lambda: asyncio.Queue(_MOST_WAITING))
    _large: asyncio.Queue[_Waiting] = field(default_factory=lambda: asyncio.Queue(_MOST_WAITING))
    _began: float = math.inf
    """The batch that is being written, of the loop's clock."""
    _flagged: set[tuple[UUID, UUID]] = field(default_factory=set[tuple[UUID, UUID]])
    _known: KnownSamples = field(default_factory=KnownSamples)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    def start(self) -> None:
        """Begin to record."""
        lanes = (self._run(), self._relieve(), self._run_large())
        self._tasks = [asyncio.create_task(lane) for lane in lanes]

    async def close(self) -> None:
        """Record what waits, if it can be done in a moment, and stop."""
        if not self._tasks:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s):
                await self._queue.join()
                await self._large.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def keep(self, served: Served) -> None:
        """Returns when the samples are on record, or are lost. Raises nothing."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(served, loop.create_future(), loop.time() + self.patience_s)
        try:
            (self._large if takes_long(served.num_bytes) else self._queue).put_nowait(waiting)
        except asyncio.QueueFull:
            self._lose([waiting], "too many completions wait to be recorded")
            return
        await waiting.done

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            first = await self._queue.get()
            self._began = clock()
            await self._record_with(first, self._queue)
            self._began = math.inf

    async def _relieve(self) -> None:
        """Record what waits behind a batch that takes long."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LONG_S)
            while clock() - self._began > _LONG_S and not self._queue.empty():
                await self._record_with(self._queue.get_nowait(), self._queue)

    async def _run_large(self) -> None:
        while True:
            await self._record_with(await self._large.get(), self._large)

    async def _record_with(self, first: _Waiting, queue: asyncio.Queue[_Waiting]) -> None:
        batch = [first]
        while len(batch) < _MOST_AT_ONCE and not queue.empty():
            batch.append(queue.get_nowait())
        try:
            await self._record(batch)
        finally:
            for waiting in batch:
                queue.task_done()
                if not waiting.done.done():
                    waiting.done.set_result(None)

    async def _record(self, batch: list[_Waiting]) -> None:
        """All of it, again and again while a store is away and the first of them has patience; then one by one where
        it is something else."""
        try:
            served = [waiting.served for waiting in batch]
            records = await off_loop(sum(one.num_bytes for one in served), _records, served)
            await self._write(records, min(waiting.patience_ends for waiting in batch))
            self.num_recorded += len(batch)
            self.metrics.recorded(len(batch), lost=False)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, (*_AWAY, TimeoutError)):
                self._lose(batch, str(error).partition("\n")[0], error)
                return
            for waiting in batch:  # what one of them brings must not cost the others their record
                await self._record([waiting])

    async def _write(self, records: list[TraceRecord], patience_ends: float) -> None:
        clock = asyncio.get_running_loop().time
        flagged = [TraceRecord(*trace, flags={NOT_RECORDED}) for trace in self._flagged]
        known = {one.trace for one in records}
        for one in records:
            one.flags |= {NOT_RECORDED} if one.trace in self._flagged else set[str]()
        records = [*records, *(one for one in flagged if one.trace not in known)]
        while True:
            try:
                async with asyncio.timeout_at(max(patience_ends, clock() + _PAUSE_S)):
                    await record(self.database, self.blobs, records, known=self._known)
                self._flagged.difference_update(one.trace for one in records)
                return
            except _AWAY:
                if clock() + _PAUSE_S > patience_ends:
                    raise
                await asyncio.sleep(_PAUSE_S)

    def _lose(self, batch: Sequence[_Waiting], reason: str, error: Exception | None = None) -> None:
        self.num_lost += len(batch)
        self.metrics.recorded(len(batch), lost=True)
        if len(self._flagged) < _MOST_FLAGGED:
            self._flagged.update((waiting.served.team_id, waiting.served.trace_id) for waiting in batch)
        log.error("samples_not_recorded", completions=len(batch), lost=self.num_lost, reason=reason, exc_info=error)


def _records(batch: Sequence[Served]) -> list[TraceRecord]:
    """One for each trace, samples in the order in which they were served."""
    found = dict[tuple[UUID, UUID], TraceRecord]()
    for served in batch:
        trace = served.team_id, served.trace_id
        one = found.setdefault(trace, TraceRecord(*trace, model=served.model))
        one.samples += served.make()
    return list(found.values())
