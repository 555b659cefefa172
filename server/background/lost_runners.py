"""Takes back what runners hold that live no more: builds and rollouts are queued again, sessions have ended."""

from __future__ import annotations

import time

import structlog

from server.metrics.instruments import ServerMetrics
from server.runners.taking_back import take_back
from store.database import AsyncDatabase
from store.placements.ending import drop_keys_of_the_lost, placements_of_the_lost, requeue_what_the_lost_held
from store.repeating import RepeatedTask, Rhythm
from wire.placements import LOST_AFTER_S

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
_AT_ONCE = 100
_WHY = "its runner was lost"


def taking_back_from_lost_runners(database: AsyncDatabase, metrics: ServerMetrics) -> RepeatedTask:
    """Every server process looks; each placement is taken back by one of them. A process that has just started waits as
    long as runners may be silent: while no server answered, none of them could show a heartbeat."""
    began = time.monotonic()

    async def look() -> None:
        if time.monotonic() - began > LOST_AFTER_S:
            await take_back_from_lost_runners(database, metrics)

    return RepeatedTask(look, Rhythm(_LOOK_EVERY_S, failed="lost_runners_not_looked_for"))


async def take_back_from_lost_runners(database: AsyncDatabase, metrics: ServerMetrics | None = None) -> None:
    """All that they hold by now."""
    while await _take_back_some(database, metrics or ServerMetrics()) == _AT_ONCE:
        pass


async def _take_back_some(database: AsyncDatabase, metrics: ServerMetrics) -> int:
    async with database.session() as session:
        requeued = await requeue_what_the_lost_held(session, _WHY)
        found = await placements_of_the_lost(session, _AT_ONCE)
    for kind in requeued:
        metrics.attempt_lost(kind)
    for placement_id, runner_id, kind in found:
        if await take_back(database, placement_id, runner_id, _WHY, counts=True):
            metrics.attempt_lost(kind)
    if found or requeued:
        async with database.session() as session:
            await drop_keys_of_the_lost(session)
        log.warning("placements_taken_back", placements=len(found) + len(requeued))
    return len(found)
