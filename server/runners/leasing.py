"""Gives a runner what it is to carry out, with all that it needs for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.builds import begin_build
from server.environments.specs import spec_of
from server.principals.callers import Caller
from server.process.shutdown import Shutdown
from server.runners.agent_keys import AgentKeys
from server.runners.registering import own_runner
from server.runners.waiting import WaitingRunners, Wants
from store.database import AsyncDatabase
from store.placements.leasing import Taken, lease
from store.placements.presence import teams_on
from store.tables import HostedRolloutRow, RunnerRow
from wire.placements import AgentSpec, EnvironmentSpec, LeaseRequest, Placement, RolloutSpec

_AGENT_KINDS = ("rollout",)


@dataclass(frozen=True, slots=True)
class Leasing:
    """What it takes to wait for something to do."""

    database: AsyncDatabase
    waiting: WaitingRunners
    shutdown: Shutdown

    async def take(self, caller: Caller, runner_id: UUID, request: LeaseRequest, keys: AgentKeys) -> list[Placement]:
        """What there is for the runner, as soon as there is something; nothing if nothing comes in time. Raises
        NotFound, and ServerStopping while it waits."""
        async with self.database.session() as session:
            runner = await own_runner(session, caller, runner_id)
        wants = Wants(runner.team_id, frozenset(request.kinds), frozenset(runner.labels))
        if not request.wait_s:
            return await self._take_now(runner, request, keys)
        ends = _now() + request.wait_s
        with self.waiting.place(wants) as place:
            self.waiting.look_again()
            while True:
                async with self.shutdown.waiting():
                    if not await place.wait(ends - _now()):
                        return []
                place.take()
                if placements := await self._take_now(runner, request, keys):
                    return placements

    async def _take_now(self, runner: RunnerRow, request: LeaseRequest, keys: AgentKeys) -> list[Placement]:
        async with self.database.connection() as connection:
            taken = await lease(connection, runner.id, request.kinds, request.slots)
        if not taken:
            return []
        self.waiting.look_again()
        async with self.database.session() as session:
            return await _described(session, runner, taken, keys)


async def _described(
    session: AsyncSession, runner: RunnerRow, taken: Sequence[Taken], keys: AgentKeys
) -> list[Placement]:
    """In a transaction of its own: leases take turns, and this takes longer. If it fails, the runner never names what
    it was to get, and that goes back into the queue."""
    key_of = await keys.of(session, runner, await teams_on(session, runner.id))
    query = select(HostedRolloutRow).where(HostedRolloutRow.placement_id.in_([one.id for one in taken]))
    rollouts = {row.placement_id: row for row in await session.scalars(query)}
    specs, placements = dict[UUID, EnvironmentSpec](), list[Placement]()
    for one in taken:
        assert one.build_id is not None, "whatever is placed is of a build"
        environment = await _spec(session, specs, one.build_id, building=one.kind == "build")
        if one.kind == "build":
            await begin_build(session, one.build_id)
        row = rollouts.get(one.id)
        placements.append(
            Placement(
                placement_id=one.id,
                kind=one.kind,
                attempt=one.attempt,
                team=str(one.team_id) if one.team_id else "",
                timeout_s=one.timeout_s,
                environment=_with_limits(environment, row),
                rollout=await _rollout(session, specs, row) if row else None,
                key=key_of.get(str(one.team_id)) if one.kind in _AGENT_KINDS else None,
            )
        )
    return placements


def _with_limits(environment: EnvironmentSpec, row: HostedRolloutRow | None) -> EnvironmentSpec:
    """What a task asks of its machine comes before what its environment was deployed with."""
    if row is None or row.runtime_config is None:
        return environment
    deployed = environment.runtime_config or {}
    merged = {name: {**(deployed.get(name) or {}), **value} for name, value in row.runtime_config.items()}
    return environment.model_copy(update={"runtime_config": {**deployed, **merged}})


async def _rollout(session: AsyncSession, specs: dict[UUID, EnvironmentSpec], row: HostedRolloutRow) -> RolloutSpec:
    verifier = None
    if row.verifier_build_id is not None:
        verifier = await _spec(session, specs, row.verifier_build_id)
    return RolloutSpec(
        trace_id=row.trace_id,
        job_id=row.job_id,
        group_id=row.group_id,
        parent_trace_id=row.parent_trace_id,
        task=row.task,
        slug=row.slug,
        args=json.loads(row.args),
        agent=AgentSpec(type=row.agent_type, config=json.loads(row.agent_config)),
        verifier=None if row.verifier is None else json.loads(row.verifier),
        verifier_environment=verifier,
    )


async def _spec(
    session: AsyncSession, specs: dict[UUID, EnvironmentSpec], build_id: UUID, *, building: bool = False
) -> EnvironmentSpec:
    if building:
        return await spec_of(session, build_id, building=True)
    if build_id not in specs:
        specs[build_id] = await spec_of(session, build_id)
    return specs[build_id]


def _now() -> float:
    return asyncio.get_running_loop().time()
