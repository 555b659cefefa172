"""Playing a whole rollout: its environment is started here, and an agent process drives it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import structlog

from runner.agents.messages import Drive
from runner.agents.pool import AgentPool, HostDied
from runner.environments.base import Environments, StartFailed
from runner.worker.carrying import Carried, HandBack, Reports
from wire.placements import EnvironmentSpec, Placement

log = structlog.get_logger(__name__)

_REPORT_S = 60.0
"""After its time is up, the agent process gets so long to grade what there is and to report it."""


class Rollouts:
    """Carries out placements of the kind `rollout`."""

    def __init__(self, environments: Environments, agents: AgentPool) -> None:
        self._environments, self._agents = environments, agents

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        try:
            async with asyncio.timeout(placement.timeout_s + _REPORT_S):
                return await self._play(placement, reports)
        except StartFailed as failed:
            return Carried("failed", f"the environment {placement.environment.name} did not start: {failed}")
        except HostDied as died:
            raise HandBack(f"the agent's process ended: {died}") from None
        except TimeoutError:
            return Carried("failed", f"it was not over {placement.timeout_s:g} s after a runner had taken it")

    async def _play(self, placement: Placement, reports: Reports) -> Carried:
        rollout, key = placement.rollout, placement.key
        assert rollout is not None, "a rollout comes with its task"
        assert key is not None, "a rollout comes with a key"
        began = asyncio.get_running_loop().time()
        async with AsyncExitStack() as sessions:
            address = await self._start(sessions, placement, placement.environment, reports)
            verifier = rollout.verifier_environment
            verifier_address = await self._start(sessions, placement, verifier, reports) if verifier else None
            await reports.ready()
            left_s = placement.timeout_s - (asyncio.get_running_loop().time() - began)
            drive = Drive(
                id=f"{placement.placement_id.hex}-{placement.attempt}",
                rollout=rollout,
                environment=placement.environment.declared_name,
                address=address,
                verifier_address=verifier_address,
                timeout_s=max(1.0, left_s),
            )
            driven = await self._agents.drive(placement.team, key, drive)
        if driven.void is not None:
            raise HandBack(driven.void)
        return Carried("failed", driven.error) if driven.error else Carried("completed")

    async def _start(
        self, sessions: AsyncExitStack, placement: Placement, spec: EnvironmentSpec, reports: Reports
    ) -> str:
        assert placement.rollout is not None
        archive = await reports.archive(spec)
        session = await self._environments.start(
            spec,
            archive,
            uuid4().hex,
            placement.team,
            lambda line: log.debug("environment_line", placement=str(placement.placement_id), line=line),
            trace_id=str(placement.rollout.trace_id),
        )
        sessions.push_async_callback(session.stop)
        return session.address
