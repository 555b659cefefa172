"""Wait until samplers hold a staged checkpoint, so that the head only ever points at what can be served."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from store.adapters import promotion_votes
from store.database import Database
from store.notify import Listener
from wire.errors import PromotionRejected

_POLL_S = 0.5


class Promotion:
    """Asks the samplers of a base, through the database, whether they hold an adapter."""

    def __init__(
        self, database: Database, listener: Listener, timeout_s: float, check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` may raise to end a wait early."""
        self._database = database
        self._listener = listener
        self._timeout_s = timeout_s
        self._check = check

    def wait_until_loaded(self, base_id: UUID, adapter: str) -> None:
        """Return once one live sampler serves the adapter, or none is alive at all.

        Raises PromotionRejected when every live sampler refused it, or none managed it in time.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            with self._database.connection() as connection:
                live, loaded, failures = promotion_votes(connection, base_id, adapter)
            if loaded or not live:
                return
            if len(failures) >= live:
                raise PromotionRejected(f"no sampler could load the new checkpoint: {failures[0]}; the head stays")
            self._check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PromotionRejected(
                    f"no sampler loaded the new checkpoint within {self._timeout_s:.0f} s; the head stays, "
                    "submit the batch again when a sampler answers"
                )
            self._listener.wait(min(left_s, _POLL_S))
