"""Gives up requests that clients numbered and that never arrived, so that those behind them do not wait for ever.

How long they wait is known by PostgreSQL's clock, which may be set forward by an hour, and by that of this process,
which may have just started: both must have counted long enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from uuid import UUID

import structlog

from store.database import AsyncDatabase
from store.oplog.client_order import give_up_missing, held_operations
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_LOOKS = 20
"""In the time after which a number is given up."""


class Watched:
    """Since when this process has seen operations held, by its monotonic clock."""

    def __init__(self, for_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._for_s, self._clock = for_s, clock
        self._since = dict[UUID, float]()

    def see(self, held: Collection[UUID]) -> None:
        """Those that are held now."""
        now = self._clock()
        self._since = {operation: self._since.get(operation, now) for operation in held}

    def for_long(self) -> list[UUID]:
        """Those that were held in each look since `for_s` ago."""
        now = self._clock()
        return [operation for operation, since in self._since.items() if now - since >= self._for_s]


def giving_up_missing_numbers(database: AsyncDatabase, after_s: float) -> RepeatedTask:
    """Looks now and then. What waits is watched for half of the time by each server: clients may be about to send again
    what they could not send while it was away."""
    held = Watched(after_s / 2)

    async def give_up() -> None:
        async with database.connection() as connection:
            held.see(await held_operations(connection))
            watched = held.for_long()
            num_models = await give_up_missing(connection, after_s, watched) if watched else 0
        if num_models:
            log.warning("missing_requests_given_up", models=num_models, after_s=after_s)

    return RepeatedTask(give_up, Rhythm(after_s / _LOOKS, failed="missing_requests_not_given_up"))
