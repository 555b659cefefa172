"""What carrying out runs uses of a server process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from server.catalog.heads import Heads
from server.principals.callers import Caller
from server.principals.roles import Scope
from server.process.shutdown import Shutdown
from server.runs.loop.ended_rollouts import EndedRollouts
from server.runs.loop.leases import Lease
from server.runs.settings import HeldOut, RunConfig, StopRules
from server.runs.tasks import Task, read_tasks
from server.sampling.collaborators import Sampling
from server.training.collaborators import Training
from store.database import AsyncDatabase
from store.notify import AsyncListener
from store.tables import ModelRow, RunRow, RunStepRow, TeamRow

_SCOPES: frozenset[Scope] = frozenset({"read", "sample", "train"})


@dataclass(frozen=True, slots=True)
class RunServices:
    """`database`: of the runs alone, so that requests never wait for them."""

    database: AsyncDatabase
    training: Training
    sampling: Sampling
    heads: Heads
    listener: AsyncListener
    ended_rollouts: EndedRollouts
    shutdown: Shutdown


@dataclass(frozen=True, slots=True)
class LeasedRun:
    """A run that this process carries out, and what never changes about it. `caller`: the run itself, for what it does
    in its team's name; the quotas of the team apply."""

    services: RunServices
    lease: Lease
    caller: Caller
    model_id: UUID
    slug: str
    base_id: UUID
    config: RunConfig
    held_out: HeldOut | None
    stop: StopRules
    tasks: Sequence[Task]
    held_out_tasks: Sequence[Task]

    @property
    def id(self) -> UUID:
        """The run's."""
        return self.lease.run_id

    def group_size(self, row: RunStepRow) -> int:
        """How many rollouts each task of a step has."""
        if row.kind == "train":
            return self.config.group_size
        assert self.held_out is not None
        return self.held_out.group_size

    def tasks_of(self, row: RunStepRow) -> Sequence[Task]:
        """What the step chooses from."""
        return self.tasks if row.kind == "train" else self.held_out_tasks


async def open_leased_run(services: RunServices, lease: Lease) -> LeasedRun:
    """Read the run once. Raises LeaseLost."""
    async with lease.reading() as (session, run):
        model = await session.get_one(ModelRow, run.model_id)
        team = await session.get_one(TeamRow, run.team_id)
        texts = select(RunRow.tasks, RunRow.held_out_tasks).where(RunRow.id == run.id)
        tasks, held_out_tasks = (await session.execute(texts)).one()
    assert run.key_id is not None
    assert model.base_id is not None
    caller = Caller(
        team_id=run.team_id,
        key_id=run.key_id,
        team=team.name,
        role="run",
        scopes=frozenset(_SCOPES),
        model_ids=frozenset({model.id}),
        run_id=run.id,
    )
    return LeasedRun(
        services=services,
        lease=lease,
        caller=caller,
        model_id=model.id,
        slug=model.slug,
        base_id=model.base_id,
        config=RunConfig.model_validate(run.config),
        held_out=HeldOut.model_validate(run.held_out) if run.held_out is not None else None,
        stop=StopRules.model_validate(run.stop),
        tasks=read_tasks(tasks),
        held_out_tasks=read_tasks(held_out_tasks or "[]"),
    )
