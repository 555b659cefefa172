"""Counts server processes, so that each allows its share of a team's quota, and renews this one's row among them."""

from __future__ import annotations

from collections.abc import Callable

from store.database import AsyncDatabase
from store.planes.presence import Presence, count_processes
from store.repeating import RepeatedTask, Rhythm

_LOOK_EVERY_S = 10.0


def counting_replicas(database: AsyncDatabase, presence: Presence, report: Callable[[int], None]) -> RepeatedTask:
    """Reports the number now and then; the last one holds while the database is away."""

    async def count() -> None:
        async with database.connection() as connection:
            await presence.renew(connection)
            report(max(await count_processes(connection), 1))

    return RepeatedTask(count, Rhythm(_LOOK_EVERY_S, failed="replicas_not_counted", at_once=True))
