"""Takes a rollout: its trace, its placement and what it is to do come to be in one transaction.

A submission is known by its trace id: sent again, it is answered again, and runs once. One that was cancelled before it
came starts nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Uuid, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.finding import Deployed, deployed_environment
from server.environments.manifests import check_task
from server.hosted_rollouts.agents import sampled_model
from server.hosted_rollouts.checking import Grading, check_settings
from server.hosted_rollouts.submissions import DEFAULT_TIMEOUT_S, MOST_TIMEOUT_S, RunPlace, Submission, Submitted
from server.principals.callers import Caller
from server.rollouts.visibility import require_job
from server.values.sanitizing import is_storable
from store.database import AsyncDatabase
from store.placements.submitting import submit_rollout
from store.tables import HostedRolloutRow, ModelRow, TraceRow
from wire.errors import Conflict, InvalidRequest

PENDING = "pending"


async def submit(database: AsyncDatabase, caller: Caller, submission: Submission) -> Submitted:
    """As `submit_in`, in a transaction of its own. Raises Forbidden where the job is of models that are not the
    caller's."""
    await require_job(database, caller, submission.job_id, reports=True)
    async with database.session() as session:
        return await submit_in(session, caller, submission)


async def submit_in(
    session: AsyncSession, caller: Caller, submission: Submission, place: RunPlace | None = None
) -> Submitted:
    """Have a runner carry it out. place: where it belongs in a run.

    Raises NotFound for the environment or the model, InvalidRequest for a task, an agent or a machine that cannot be
    had, Forbidden for a model that the caller's key does not open, Conflict where the trace id is of something else.
    """
    if (known := await _known(session, caller, submission)) is not None:
        return known
    checked = await _checked(session, caller, submission)
    if not await submit_rollout(session, _values(caller, submission, checked, place)):
        known = await _known(session, caller, submission)
        assert known is not None, "somebody else has the trace"
        return known
    return Submitted(submission.trace_id, PENDING, True)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a submission names."""

    deployed: Deployed
    model: ModelRow
    verifier_build_id: UUID | None
    runtime_config: dict[str, Any] | None
    timeout_s: float


async def _known(session: AsyncSession, caller: Caller, submission: Submission) -> Submitted | None:
    """What was answered to it before, in one statement: it may be submitted elsewhere meanwhile. Raises Conflict for
    another one under its trace id."""
    wanted = select(literal(submission.trace_id, Uuid).label("id")).subquery()
    query = (
        select(HostedRolloutRow.request_digest, TraceRow.id, TraceRow.status)
        .select_from(wanted)
        .outerjoin(TraceRow, (TraceRow.id == wanted.c.id) & (TraceRow.team_id == caller.team_id))
        .outerjoin(
            HostedRolloutRow, (HostedRolloutRow.trace_id == wanted.c.id) & (HostedRolloutRow.team_id == caller.team_id)
        )
    )
    found: Any = (await session.execute(query)).one()  # either of the rows may be missing
    digest, trace_id, status = found
    if digest is None and trace_id is None:
        return None
    if digest is not None and digest != submission.digest():
        raise Conflict(f"another rollout was submitted as {submission.trace_id}; draw a new trace_id for this one")
    if digest is None and status != "cancelled":
        raise Conflict(f"the rollout {submission.trace_id} was reported by a client; draw a new trace_id for this one")
    gone = "cancelled" if trace_id is None else PENDING
    return Submitted(submission.trace_id, status or gone, False)


async def _checked(session: AsyncSession, caller: Caller, submission: Submission) -> _Checked:
    _refuse_unstorable(submission)
    of = check_settings(submission.args, submission.agent_config, submission.verifier, submission.runtime_config)
    deployed = await deployed_environment(session, caller.team_id, submission.environment)
    check_task(deployed.build.manifest, deployed.environment.name, submission.task, submission.args)
    model = await sampled_model(session, caller, submission.agent_type, submission.agent_config)
    verifier_build_id = await _grading_build(session, caller, of.grading) if of.grading is not None else None
    timeout_s = _timeout_s(submission, of.runtime_config, deployed)
    return _Checked(deployed, model, verifier_build_id, of.runtime_config, timeout_s)


async def _grading_build(session: AsyncSession, caller: Caller, grading: Grading) -> UUID:
    deployed = await deployed_environment(session, caller.team_id, grading.environment)
    check_task(deployed.build.manifest, deployed.environment.name, grading.task, grading.args)
    return deployed.build.id


def _refuse_unstorable(submission: Submission) -> None:
    """Names that would not come out as they went in."""
    for name in ("slug", "group_id", "parent_trace_id", "task", "environment"):
        value = getattr(submission, name)
        if value is not None and not is_storable(value):
            raise InvalidRequest(f"{name} has NUL characters or half characters", param=name)


def _timeout_s(submission: Submission, runtime_config: dict[str, Any] | None, deployed: Deployed) -> float:
    limits = [(config or {}).get("limits") or {} for config in (runtime_config, deployed.build.runtime_config)]
    asked = [submission.timeout_s, *(one.get("run_timeout_s") for one in limits)]
    return min(next((timeout_s for timeout_s in asked if timeout_s is not None), DEFAULT_TIMEOUT_S), MOST_TIMEOUT_S)


def _values(caller: Caller, submission: Submission, checked: _Checked, place: RunPlace | None) -> dict[str, Any]:
    return {
        "team_id": caller.team_id,
        "trace_id": submission.trace_id,
        "key_id": caller.key_id,
        "request_digest": submission.digest(),
        "job_id": submission.job_id,
        "group_id": submission.group_id,
        "parent_trace_id": submission.parent_trace_id,
        "model": checked.model.slug,
        "model_id": checked.model.id,
        "priority": submission.priority,
        "labels": list(submission.labels),
        "build_id": checked.deployed.build.id,
        "timeout_s": checked.timeout_s,
        "max_attempts": submission.max_attempts,
        "environment": submission.environment,
        "task": submission.task,
        "slug": submission.slug,
        "args": json.dumps(submission.args),
        "agent_type": submission.agent_type,
        "agent_config": json.dumps(submission.agent_config),
        "verifier": None if submission.verifier is None else json.dumps(submission.verifier),
        "verifier_build_id": checked.verifier_build_id,
        "runtime_config": checked.runtime_config,
        "run_id": place.run_id if place else None,
        "step": place.step if place else None,
        "purpose": place.purpose if place else None,
        "position": place.position if place else None,
    }
