"""Gives up requests that clients numbered and that never arrived, so that those behind them do not wait for ever."""

from __future__ import annotations

import time

import structlog

from store.database import AsyncDatabase
from store.oplog.client_order import give_up_missing
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_LOOKS = 20
"""In the time after which a number is given up."""


def giving_up_missing_numbers(database: AsyncDatabase, after_s: float) -> RepeatedTask:
    """Looks now and then. A server that has just started waits for half of the time: clients may be about to send again
    what they could not send while it was away."""
    started_at = time.monotonic()

    async def give_up() -> None:
        if time.monotonic() - started_at < after_s / 2:
            return
        async with database.connection() as connection:
            num_models = await give_up_missing(connection, after_s)
        if num_models:
            log.warning("missing_requests_given_up", models=num_models, after_s=after_s)

    return RepeatedTask(give_up, Rhythm(after_s / _LOOKS, failed="missing_requests_not_given_up"))
