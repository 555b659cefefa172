"""Keeping an environment for a client, whose agent reaches it through tunnels, as long as the client wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from runner.environments.base import Environments, Session, StartFailed
from runner.tunnels.doors import Door, Doors
from runner.worker.carrying import Carried, Reports
from wire.placements import Placement

log = structlog.get_logger(__name__)

_DELETE_S = 0.1
"""From closing its tunnels to asking for the session's end, a client takes so long."""


@dataclass(frozen=True, slots=True)
class SessionLife:
    """A session ends that no tunnel was opened to for `unused_s`, or `left_s` after its last tunnel was closed: a
    client may open another between two attempts to greet its environment."""

    unused_s: float = 120.0
    left_s: float = 60.0


class Sessions:
    """Carries out placements of the kind `session`. `on_left`: called when a client has closed its last tunnel, shortly
    after which it usually says that it needs the session no more."""

    def __init__(
        self,
        environments: Environments,
        doors: Doors,
        on_left: Callable[[], None] = lambda: None,
        life: SessionLife | None = None,
    ) -> None:
        self._environments, self._doors, self._on_left = environments, doors, on_left
        self._life = life or SessionLife()

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        with self._doors.door(placement.placement_id) as door:
            try:
                session = await self._start(placement, reports)
            except StartFailed as failed:
                door.fail(str(failed))
                return Carried("failed", str(failed))
            try:
                door.open(session)
                await reports.ready()
                return await self._until_over(placement, session, door)
            finally:
                await session.stop()

    async def _start(self, placement: Placement, reports: Reports) -> Session:
        archive = await reports.archive(placement.environment)
        return await self._environments.start(
            placement.environment,
            archive,
            placement.placement_id.hex,
            placement.team,
            lambda line: log.debug("environment_line", line=line),
        )

    async def _until_over(self, placement: Placement, session: Session, door: Door) -> Carried:
        watching = asyncio.create_task(self._watch(door))
        try:
            async with asyncio.timeout(placement.timeout_s):
                await asyncio.wait({session.ended, watching}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return Carried("completed", f"a session lasts {placement.timeout_s:g} s at most")
        finally:
            watching.cancel()
        if session.ended.done():
            return Carried("failed", session.ended.result())
        return Carried("completed", f"no tunnel was open for {watching.result():g} s")

    async def _watch(self, door: Door) -> float:
        """Returns for how long none was open, once that is long enough."""
        while True:
            idle_s = self._life.left_s if door.num_opened else self._life.unused_s
            if (missing_s := idle_s - door.idle_for_s()) <= 0:
                return idle_s
            door.left.clear()
            try:
                await asyncio.wait_for(door.left.wait(), max(0.05, missing_s))
            except TimeoutError:
                continue
            await asyncio.sleep(_DELETE_S)
            self._on_left()
