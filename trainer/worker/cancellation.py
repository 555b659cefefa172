"""Ends long operations early when they cannot count any more, so that they do not block a trainer.

Looked for between micro-batches, with one small statement every so often. What ended early has added nothing to the
model's gradient, and the engine is as it was. See docs/decisions/0034. A database that does not answer holds nothing
up: other ranks wait meanwhile in a collective that has a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import structlog

from store.database import DATABASE_AWAY, Connection, Database
from store.oplog import cancelling
from store.oplog.operation import Operation
from store.oplog.scheduling import next_model
from store.oplog.work import Lease
from trainer.worker.asking import Asked

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 2.0
GRACE_S = 5.0


class Cancelled(Exception):
    """The operation under way was ended early, and the log says so already."""


class Cancellation:
    """Of the operation that a trainer carries out. Used by the thread that carries it out."""

    def __init__(
        self,
        database: Database,
        base_id: UUID,
        trainer_id: UUID,
        check: Callable[[], None] = lambda: None,
        look_every_s: float = LOOK_EVERY_S,
        grace_s: float = GRACE_S,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        """`check` is called at every occasion, and may raise too.

        answer_within_s: then the pass goes on as if nothing were known; what the answer says, it does on a later
        occasion.

        grace_s: for so long a pass that nobody waits for goes on although other work waits. Its caller may be about to
        send it again, because its server was restarted, say; it would start again from nothing.
        """
        self._database = database
        self._base_id, self._trainer_id = base_id, trainer_id
        self._check = check
        self._look_every_s, self._grace_s, self._answer_within_s = look_every_s, grace_s, answer_within_s
        self._under_way: tuple[Lease, Operation] | None = None
        self._asked: Asked | None = None
        self._looked_at = 0.0
        self._unawaited_since: float | None = None
        self.elsewhere: Callable[[], Collection[UUID]] = tuple
        """The models whose operation goes on in another thread, so that they do not wait for the engine."""

    @contextmanager
    def of(self, lease: Lease, operation: Operation) -> Generator[None]:
        """The block carries this operation out."""
        self._under_way, self._looked_at, self._unawaited_since = (lease, operation), time.monotonic(), None
        try:
            yield
        finally:
            self._under_way = self._asked = None

    def check_of(self, lease: Lease, operation: Operation) -> Callable[[], None]:
        """A check for what goes on in another thread while other models have the engine: it is never cancelled, and
        so raises Superseded, LeaseLost, or what the other check raises."""
        looked_at = time.monotonic()

        def check() -> None:
            nonlocal looked_at
            self._check()
            if time.monotonic() - looked_at < self._look_every_s:
                return
            with _going_on_without_database(), self._database.connection() as connection:
                cancelling.look(connection, lease, operation)
            looked_at = time.monotonic()

        return check

    def check(self) -> None:
        """Call where it can be ended: raises Cancelled, Superseded, LeaseLost, or what the other check raises."""
        self._check()
        if self._under_way is None or time.monotonic() - self._looked_at < self._look_every_s:
            return
        with _going_on_without_database():
            self._ask(*self._under_way)
        self._looked_at = time.monotonic()

    def _ask(self, lease: Lease, operation: Operation) -> None:
        asked, self._asked = self._asked, None
        within_s = 0.0 if asked else self._answer_within_s
        asked = asked or Asked(partial(self._look, lease, operation))
        if asked.has_ended(within_s):
            return
        self._asked = asked
        if within_s:
            log.warning("cancellation_not_checked", error=f"the database has not answered in {within_s:g} s")

    def _look(self, lease: Lease, operation: Operation) -> None:
        with self._database.connection() as connection:
            seen = cancelling.look(connection, lease, operation)
            if not seen.is_unacknowledged:
                self._unawaited_since = None
                return
            if seen.will_be_left_out and cancelling.leave_out(connection, lease, operation):
                raise Cancelled(f"nobody waits for this {operation.kind}, and nothing could come of it")
            is_in_the_way = self._has_had_its_grace() and self._others_wait(connection, lease)
            if is_in_the_way and cancelling.put_back(connection, lease, operation):
                raise Cancelled(f"nobody waits for this {operation.kind}, and others wait for this trainer")

    def _has_had_its_grace(self) -> bool:
        now = time.monotonic()
        self._unawaited_since = self._unawaited_since or now
        return now - self._unawaited_since >= self._grace_s

    def _others_wait(self, connection: Connection, lease: Lease) -> bool:
        upcoming = next_model(connection, self._base_id, self._trainer_id, self.elsewhere())
        return (
            upcoming is not None
            and upcoming.model_id != lease.model_id
            and upcoming.is_awaited
            and not upcoming.free_in_s
        )


@contextmanager
def _going_on_without_database() -> Generator[None]:
    """What is under way may outlive that."""
    try:
        yield
    except DATABASE_AWAY as error:
        log.warning("cancellation_not_checked", error=str(error).splitlines()[0])
