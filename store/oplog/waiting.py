"""The calls of a process that wait for operations, looked after together.

A notification wakes the one call that waits for its operation. Everything else is found out for all of them in one
statement every few seconds, and after the listener has lost its connection: ends whose notification was lost, and
troubles that keep operations from being carried out. Thousands of calls cost the database as much as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, AsyncConnection, AsyncDatabase
from store.notify import OPERATION_DONE, AsyncListener, Subscription
from store.oplog.scheduling import MAX_PAUSE_S

log = structlog.get_logger(__name__)

TROUBLE_S = 60.0
"""The HUD SDK sends no training call again by itself, and waits for 600 s."""

_EVERY_S = 5.0
_TROUBLED_EVERY_S = 0.5
_ANSWER_S = 10.0
"""For the database to answer. A connection that leads nowhere would keep every call from hearing anything."""

# The first open operation of a model is the one for which all others of it wait.
_FIND = f"""
    with asked as (
        select id, model_id, state not in ('held', 'queued', 'running') as has_ended
        from operations where id = any(%(ids)s)
    )
    select asked.id, asked.has_ended, first.kind, first.id = asked.id as is_its_own, first.retry_reason as reason,
        least(extract(epoch from first.retry_at - clock_timestamp()), {MAX_PAUSE_S})::float8 as retry_in_s
    from asked
    left join (
        select f.* from (select distinct model_id from asked where not has_ended) m
        join lateral (
            select * from operations o where o.model_id = m.model_id and o.state in ('queued', 'running')
            order by o.sequence limit 1
        ) f on f.retry_reason is not null
    ) first on first.model_id = asked.model_id
    where asked.has_ended or first.id is not null
"""  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an operation waits for. `kind`: of the operation that was put off, which may be one before it.

    retry_in_s: None while it is being tried again.
    """

    kind: str
    is_its_own: bool
    reason: str
    retry_in_s: float | None


DATABASE_TROUBLE = Trouble(
    "operation", True, "the database does not answer; the operation is in its log, send the same call again", 0.0
)


async def troubles_and_ends(connection: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Trouble | None]:
    """What keeps each of these operations from being carried out, and None for those that have ended. Open ones that
    nothing keeps are left out."""
    rows = await (await connection.execute(_FIND.encode(), {"ids": list(ids)})).fetchall()
    return {
        row.id: None if row.has_ended else Trouble(row.kind, row.is_its_own, row.reason, row.retry_in_s) for row in rows
    }


class WaitingCall(Subscription):
    """A call that waits for an operation. It is woken when that may have ended, and when it has waited too long for a
    trouble to pass."""

    def __init__(self, calls: WaitingCalls, operation_id: UUID) -> None:
        super().__init__()
        self.operation_id = operation_id
        self.trouble: Trouble | None = None
        self._troubled_since = 0.0
        self._calls = calls

    def connected(self) -> None:
        """The listener was away: whatever was missed is found with all others'."""
        self.look()

    def look(self) -> None:
        """Find out soon whether the operation has ended, and if not, why."""
        self._calls.look_for(self.operation_id)

    def note(self, trouble: Trouble | None) -> None:
        """The operation is open, and this keeps it so."""
        if self.trouble is None:
            self._troubled_since = time.monotonic()
        self.trouble = trouble
        if self.is_overdue:
            self.wake()

    @property
    def is_overdue(self) -> bool:
        """Whether a trouble has lasted for too long, and the operation is not being tried at this moment."""
        if self.trouble is None or self.trouble.retry_in_s is None:
            return False
        return time.monotonic() - self._troubled_since >= self._calls.trouble_s


class WaitingCalls:
    """Those of one process. `trouble_s`: for so long they wait for a trouble to pass. Belongs to one event loop."""

    def __init__(
        self,
        database: AsyncDatabase,
        listener: AsyncListener,
        *,
        trouble_s: float = TROUBLE_S,
        every_s: float = _EVERY_S,
    ) -> None:
        self.trouble_s = trouble_s
        self._database = database
        self._listener = listener
        self._every_s = every_s
        self._calls: dict[UUID, set[WaitingCall]] = {}
        self._asked, self._is_asked = set[UUID](), asyncio.Event()
        self._all_at = self._troubled_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on, for ever."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextmanager
    def wait_for(self, operation_id: UUID) -> Generator[WaitingCall]:
        """A call that waits for this operation, which need not exist yet, until the block ends."""
        call = WaitingCall(self, operation_id)
        self._calls.setdefault(operation_id, set()).add(call)
        try:
            with self._listener.listening(OPERATION_DONE, operation_id.hex, call):
                yield call
        finally:
            self._calls[operation_id].discard(call)
            if not self._calls[operation_id]:
                del self._calls[operation_id]

    def look_for(self, operation_id: UUID) -> None:
        """As `WaitingCall.look`."""
        self._asked.add(operation_id)
        self._is_asked.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TROUBLED_EVERY_S):
                    await self._is_asked.wait()
            self._is_asked.clear()
            try:
                await self._look(self._due())
            except Exception:
                log.exception("waiting_calls_not_looked_at")  # but the next time, and wake-ups come meanwhile
                await asyncio.sleep(_TROUBLED_EVERY_S)

    def _due(self) -> set[UUID]:
        now = time.monotonic()
        due, self._asked = self._asked, set()
        if now >= self._all_at:
            self._all_at = now + self._every_s
            return set(self._calls)
        if now >= self._troubled_at:
            self._troubled_at = now + _TROUBLED_EVERY_S
            due |= {id_ for id_, calls in self._calls.items() if any(call.trouble for call in calls)}
        return due & self._calls.keys()

    async def _look(self, ids: set[UUID]) -> None:
        if not ids:
            return
        found: dict[UUID, Trouble | None]
        try:
            async with asyncio.timeout(_ANSWER_S), self._database.connection() as connection:
                found = await troubles_and_ends(connection, ids)
        except (*DATABASE_AWAY, TimeoutError):
            found = dict.fromkeys(ids, DATABASE_TROUBLE)
        for operation_id in ids:
            has_ended = operation_id in found and found[operation_id] is None
            for call in self._calls.get(operation_id, ()):
                if has_ended:
                    call.wake()
                else:
                    call.note(found.get(operation_id))
