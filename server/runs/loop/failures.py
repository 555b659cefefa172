"""What a run does about an error: wait and try again, begin the step's batch anew, or fail with its sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from server.catalog.pausing import ModelPaused
from server.principals.quotas import QuotaSpent
from server.process.shutdown import ServerStopping
from server.runs.events import add_event
from server.runs.loop.leases import Lease
from store.database import DATABASE_AWAY, away_sentence
from wire.errors import HeadwayError, NothingAccumulated, Superseded, TimedOut, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

PASSES_BY_ITSELF = (Unavailable, TimedOut, QuotaSpent, ModelPaused, *DATABASE_AWAY)
"""Planes that are away, quotas of a day, pauses of the model: somebody ends them."""
BATCH_LOST = (Superseded, NothingAccumulated)
"""The head moved while the batch was trained on: rolled out again, on the new weights."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_SAID_AFTER_S = 5.0
"""What is over sooner is not reported."""


class RunFailed(Exception):
    """The run cannot go on; its sentence says why."""


class BatchDropped(Exception):
    """The step has to be rolled out again."""


async def patiently(lease: Lease, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is tried again for as long as it ends in what passes by itself. Meanwhile the run
    says what it waits for."""
    pause_s, waited_s, said = _FIRST_PAUSE_S, 0.0, None
    while True:
        try:
            result = await work()
        except ServerStopping:
            raise
        except PASSES_BY_ITSELF as error:
            sentence = error.message if isinstance(error, HeadwayError) else away_sentence(error)
            log.info("run_waits", run=str(lease.run_id), why=sentence)
            if sentence != said and waited_s >= _SAID_AFTER_S and isinstance(error, HeadwayError):
                await say_waiting(lease, sentence)
                said = sentence
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            if said is not None:
                await say_waiting(lease, None)
            return result


async def say_waiting(lease: Lease, sentence: str | None) -> None:
    """Note what keeps the run from going on, in an event, too; None: nothing does any more."""
    try:
        async with lease.writing() as (session, run):
            if run.waiting_for == sentence:
                return
            run.waiting_for = sentence
            if sentence is not None:
                await add_event(session, run, "warning", f"waiting: {sentence}")
    except DATABASE_AWAY:
        return
