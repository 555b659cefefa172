"""Counts server processes, so that each allows its share of a team's quota."""

from __future__ import annotations

from collections.abc import Callable

from store.database import AsyncDatabase
from store.planes.presence import count_processes
from store.repeating import RepeatedTask, Rhythm

_LOOK_EVERY_S = 10.0


def counting_replicas(database: AsyncDatabase, report: Callable[[int], None]) -> RepeatedTask:
    """Reports the number now and then; the last one holds while the database is away."""

    async def count() -> None:
        async with database.connection() as connection:
            report(max(await count_processes(connection), 1))

    return RepeatedTask(count, Rhythm(_LOOK_EVERY_S, failed="replicas_not_counted", at_once=True))
