"""Carries out managed runs: every server takes those that nobody carries out, each with a controller of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import structlog

from server.catalog.heads import Heads
from server.runs.loop.controller import Controller
from server.runs.loop.ended_rollouts import EndedRollouts
from server.runs.loop.leases import Lease, release, take_leases
from server.runs.loop.services import RunServices
from server.sampling.collaborators import Sampling
from server.training.collaborators import Training
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import RUN_CHANGED
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_POOL = 4
_LOOK_EVERY_S = 2.0
_LEAST_PAUSE_S = 0.1
_AFTER_A_FAULT_S = 10.0
_LAST_WORDS_S = 2.0


@asynccontextmanager
async def managing_runs(training: Training, sampling: Sampling, heads: Heads) -> AsyncGenerator[None]:
    """Until the block ends; what is under way then is left to other servers, or to the next start."""
    database = AsyncDatabase(training.database.url.render_as_string(hide_password=False), pool_size=_POOL)
    database.expire_caches = training.database.expire_caches
    services = RunServices(
        database,
        replace(training, database=database, background=database),
        sampling,
        replace(heads, database=database),
        training.listener,
        EndedRollouts(database),
        training.shutdown,
    )
    managed = _ManagedRuns(services)
    with services.listener.subscribe(RUN_CHANGED, None) as changes:

        async def until_changed(pause_s: float) -> None:
            await asyncio.sleep(_LEAST_PAUSE_S)
            await changes.wait(pause_s)

        rhythm = Rhythm(_LOOK_EVERY_S, failed="runs_not_looked_for", at_once=True)
        try:
            async with (
                services.ended_rollouts.listening(services.listener),
                RepeatedTask(managed.take, rhythm, until_changed),
            ):
                yield
        finally:
            await managed.close()
            await database.close()


class _ManagedRuns:
    """Those of this process."""

    def __init__(self, services: RunServices) -> None:
        self._services = services
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    async def take(self) -> None:
        """Begin with runs that nobody carries out."""
        if self._services.shutdown.is_begun:
            return
        owner = self._services.listener.presence.number
        async with self._services.database.connection() as connection:
            leases = await take_leases(self._services.database, connection, owner, self._tasks)
        for lease in leases:
            self._tasks[lease.run_id] = asyncio.create_task(self._carry_out(lease))

    async def close(self) -> None:
        """Stop, and let others go on at once."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, lease: Lease) -> None:
        log.info("run_taken", run=str(lease.run_id), token=lease.token)
        try:
            await Controller(self._services, lease).run()
        except Exception as fault:
            log.error("run_fault", run=str(lease.run_id), exc_info=fault)
            await asyncio.sleep(_AFTER_A_FAULT_S)  # it is tried again, here or elsewhere
        finally:
            try:
                async with asyncio.timeout(_LAST_WORDS_S):
                    await release(lease)
            except (TimeoutError, *DATABASE_AWAY) as error:
                log.warning("run_not_released", run=str(lease.run_id), error=str(error).partition("\n")[0])
            self._tasks.pop(lease.run_id, None)
