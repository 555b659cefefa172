"""Gauges that are read periodically, since no event reports their changes."""

from __future__ import annotations

from server.metrics.instruments import ServerMetrics
from store.database import AsyncDatabase
from store.repeating import RepeatedTask, Rhythm

_EVERY_S = 5.0


def watching_pools(metrics: ServerMetrics, database: AsyncDatabase) -> RepeatedTask:
    """Notes how the connection pools are used."""

    async def watch() -> None:
        for pool, (in_use, idle, waiting) in database.connections().items():
            metrics.connections(pool, in_use, idle, waiting)

    return RepeatedTask(watch, Rhythm(_EVERY_S, failed="pools_not_watched", at_once=True))
