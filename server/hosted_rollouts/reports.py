"""Who may report about a rollout: of one that runners carry out, the agent of its present attempt, and nobody else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from server.principals.callers import Caller
from server.rollouts.types import TraceExited
from server.sampling.fencing import not_held
from server.values.sanitizing import storable_json
from store.database import AsyncConnection, AsyncDatabase
from store.placements.fencing import held_rollout, is_hosted
from store.placements.rollout_reports import report_enter, report_exit
from wire.errors import Conflict, InvalidRequest

_ENDS = ("completed", "error", "cancelled")


async def require_reporter(database: AsyncDatabase, caller: Caller, trace_id: UUID) -> None:
    """Raises Conflict where others than agents report about a rollout that is carried out here. (Of an agent, what it
    reports finds out whether its runner holds the rollout.)"""
    if caller.runner_id is not None:
        return
    async with database.connection() as connection:
        if await is_hosted(connection, caller.team_id, trace_id):
            raise Conflict(f"the rollout {trace_id} is carried out here: its runner reports about it, and nobody else")


async def take_enter(database: AsyncDatabase, caller: Caller, trace_id: UUID) -> None:
    """An agent begins. Raises Forbidden where its runner does not hold the rollout."""
    assert caller.runner_id is not None, "an agent reports"
    async with database.connection() as connection:
        if not await report_enter(connection, caller.team_id, caller.runner_id, trace_id):
            raise not_held(trace_id)


async def take_exit(database: AsyncDatabase, caller: Caller, trace_id: UUID, report: TraceExited) -> None:
    """What an agent says at its exit. It counts when its runner has ended the placement: until then spans may be under
    way. Raises Forbidden where the runner does not hold the rollout, InvalidRequest for an end that is none."""
    assert caller.runner_id is not None, "an agent reports"
    if report.status not in _ENDS:
        raise InvalidRequest(f"status of an exit is one of {', '.join(_ENDS)}", param="status")
    said: dict[str, Any] = {name: getattr(report, name) for name in type(report).model_fields}
    said = {**(report.model_extra or {}), **said}
    reported = {name: storable_json(value, name) for name, value in said.items() if value is not None}
    if report.status == "error" and report.evaluation_result is None:
        reported.pop("reward", None)  # the SDK says 0 where an agent or its environment failed before the grading
    async with database.connection() as connection:
        if not await report_exit(connection, caller.team_id, caller.runner_id, trace_id, reported):
            raise not_held(trace_id)


async def present_attempt(connection: AsyncConnection, caller: Caller, trace_id: UUID) -> int:
    """The attempt that an agent reports of, which stays the present one until the transaction ends. Raises Forbidden
    where its runner does not hold the rollout any more."""
    assert caller.runner_id is not None, "an agent reports"
    held = await held_rollout(connection, caller.team_id, trace_id, caller.runner_id, lock=True)
    if held is None:
        raise not_held(trace_id)
    return held.attempt
