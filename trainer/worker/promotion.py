"""Wait until samplers hold a staged checkpoint, so that the head only ever points at what can be served."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import psycopg
import structlog

from store.database import Database
from store.notify import Listener
from store.planes.promotion import Votes, promotion_votes
from store.planes.promotion_policy import PromotionPolicy
from wire.errors import PromotionRejected, Unavailable

log = structlog.get_logger(__name__)

_POLL_S, _LOST_S = 0.5, 0.05


class Promotion:
    """Asks the samplers of a base, through the database, whether they hold an adapter. Used by one thread."""

    def __init__(
        self,
        database: Database,
        listener: Listener,
        timeout_s: float,
        policy: PromotionPolicy = PromotionPolicy.ONE,
    ) -> None:
        """`listener`: for ADAPTER_LOADED, of this thread's own."""
        self._database = database
        self._listener = listener
        self._timeout_s = timeout_s
        self._policy = policy
        self._waited_at: float | None = None

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def wait_until_loaded(self, base_id: UUID, adapter: str, check: Callable[[], None] = lambda: None) -> None:
        """Return once the live samplers that the policy waits for serve the adapter, or time is up and at least one
        does, or none is alive at all. `check` is called now and then, and may raise to end the wait early.

        Raises PromotionRejected when every live sampler refused it, Unavailable when none managed it in time: that is
        the samplers' trouble, and the step is tried again.
        """
        self._listen_afresh()
        try:
            self._wait_until_loaded(base_id, adapter, check)
        finally:
            self._waited_at = time.monotonic()

    def rest_after(self, idle_s: float) -> None:
        """Listen no more, unless somebody waited within `idle_s`: beginning and ending cost two statements, and what
        nobody reads fills PostgreSQL's queue (see `Listener.skip`)."""
        if self._waited_at is not None and time.monotonic() - self._waited_at >= idle_s:
            self._waited_at = None
            self._listener.rest()

    def _listen_afresh(self) -> None:
        """From now on. What has come since the last wait is about other adapters, or comes to be seen in the table."""
        try:
            self._listener.skip()
        except psycopg.OperationalError:  # PostgreSQL ended it while nothing was asked of it
            self._listener.listen()

    def _wait_until_loaded(self, base_id: UUID, adapter: str, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            with self._database.connection() as connection:
                votes = promotion_votes(connection, self._policy, base_id, adapter)
            if not votes.live or votes.suffice(self._policy):
                return None
            if votes.is_refused:
                raise PromotionRejected(
                    f"no sampler could load the new checkpoint: {votes.refusals[0]}; the head stays"
                )
            check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return self._time_is_up(adapter, votes)
            self._wait_for_report(adapter, min(left_s, _POLL_S))

    def _wait_for_report(self, adapter: str, timeout_s: float) -> None:
        """Reports on other adapters, as those of earlier steps, say nothing about this one. Returns early where the
        listener's connection is lost: the next wait has another, and the look before it raises where the database is
        away."""
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                if any(key == adapter for _, key in self._listener.wait(left_s)):
                    return
            except psycopg.OperationalError:
                time.sleep(min(left_s, _LOST_S))
                return

    def _time_is_up(self, adapter: str, votes: Votes) -> None:
        if votes.loaded:
            log.warning("promoted_without_all", adapter=adapter, live=votes.live, holding=votes.loaded)
            return
        refused = f" ({len(votes.refusals)} refused it: {votes.refusals[0]})" if votes.refusals else ""
        raise Unavailable(f"no sampler loaded the new checkpoint within {self._timeout_s:.0f} s{refused}")
