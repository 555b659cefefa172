"""Who may report about a rollout: of one that runners carry out, the agent of its present attempt, and nobody else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from server.principals.callers import Caller
from server.rollouts.types import TraceExited
from server.sampling.fencing import not_held
from server.values.sanitizing import storable_json
from store.database import AsyncConnection, AsyncDatabase
from store.placements.fencing import HeldRollout, held_rollout, is_hosted, report_exit
from wire.errors import Conflict


async def require_reporter(database: AsyncDatabase, caller: Caller, trace_id: UUID) -> None:
    """Raises Forbidden for an agent whose runner does not hold the rollout, Conflict where others report about one that
    is carried out here."""
    async with database.connection() as connection:
        if caller.runner_id is not None:
            await _held(connection, caller, trace_id)
        elif await is_hosted(connection, caller.team_id, trace_id):
            raise Conflict(f"the rollout {trace_id} is carried out here: its runner reports about it, and nobody else")


async def take_exit(database: AsyncDatabase, caller: Caller, trace_id: UUID, report: TraceExited) -> None:
    """What an agent says at its exit. It counts when its runner has ended the placement: until then spans may be under
    way. Raises Forbidden where the runner does not hold the rollout any more."""
    said: dict[str, Any] = {name: getattr(report, name) for name in type(report).model_fields}
    said = {**(report.model_extra or {}), **said}
    reported = {name: storable_json(value, name) for name, value in said.items() if value is not None}
    async with database.connection() as connection, connection.transaction():
        held = await _held(connection, caller, trace_id, lock=True)
        await report_exit(connection, held.placement_id, reported)


async def present_attempt(connection: AsyncConnection, caller: Caller, trace_id: UUID) -> int:
    """The attempt that an agent reports of, which stays the present one until the transaction ends. Raises Forbidden
    where its runner does not hold the rollout any more."""
    return (await _held(connection, caller, trace_id, lock=True)).attempt


async def _held(connection: AsyncConnection, caller: Caller, trace_id: UUID, *, lock: bool = False) -> HeldRollout:
    assert caller.runner_id is not None, "an agent asks"
    held = await held_rollout(connection, caller.team_id, trace_id, caller.runner_id, lock=lock)
    if held is None:
        raise not_held(trace_id)
    return held
