"""Keeping an environment for a client, whose agent reaches it through tunnels, as long as the client wants it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from runner.environments.base import Environments, Session, StartFailed
from runner.tunnels.doors import Door, Doors
from runner.worker.carrying import Carried, Reports
from wire.placements import Placement

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SessionLife:
    """A session ends that no tunnel was opened to for `unused_s`, or `left_s` after its last tunnel was closed: a
    client may open another between two attempts to greet its environment."""

    unused_s: float = 120.0
    left_s: float = 60.0


class Sessions:
    """Carries out placements of the kind `session`."""

    def __init__(self, environments: Environments, doors: Doors, life: SessionLife | None = None) -> None:
        self._environments, self._doors, self._life = environments, doors, life or SessionLife()

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
        try:
            async with asyncio.timeout(placement.timeout_s):
                while not session.ended.done():
                    idle_s = self._life.left_s if door.num_opened else self._life.unused_s
                    if door.idle_for_s() >= idle_s:
                        return Carried("completed", f"no tunnel was open for {idle_s:g} s")
                    await asyncio.wait({session.ended}, timeout=min(1.0, idle_s / 4))
        except TimeoutError:
            return Carried("completed", f"a session lasts {placement.timeout_s:g} s at most")
        return Carried("failed", session.ended.result())
