"""For which rollouts a key samples: one of agents for those that their runner holds just now, and for nothing else. A
key for some models must not record under a rollout of another, which would become one of these. For other keys nothing
is asked."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from server.principals.callers import Caller
from server.rollouts.visibility import require_trace
from server.sampling.requests import Rollout
from store.database import AsyncDatabase
from store.placements.fencing import held_rollout
from wire.errors import Forbidden


async def fence(database: AsyncDatabase, caller: Caller, model_id: UUID, rollout: Rollout | None) -> Rollout | None:
    """What to record the answers under, with the attempt that it belongs to; None where nothing is recorded.

    Raises Forbidden for an agent without a rollout, or whose rollout is not (any more) on its runner, or was submitted
    with a key that does not open the model; and where the caller's key is for some models, and the rollout of another.
    """
    if caller.runner_id is None:
        if rollout is None or rollout.of_environment:
            return None
        await require_trace(database, caller, rollout.trace_id, reports=True)
        return rollout
    if rollout is None:
        raise Forbidden("this key is for agents on a runner: send the rollout's id as Trace-Id")
    async with database.connection() as connection:
        held = await held_rollout(connection, caller.team_id, rollout.trace_id, caller.runner_id)
    if held is None:
        raise not_held(rollout.trace_id)
    if held.model_ids is not None and model_id not in held.model_ids:
        raise Forbidden(f"the key that submitted the rollout {rollout.trace_id} does not open this model")
    return None if rollout.of_environment else replace(rollout, attempt=held.attempt)


def not_held(trace_id: UUID) -> Forbidden:
    """The refusal of an agent that speaks of a rollout which is not on its runner."""
    return Forbidden(
        f"this key is for agents on a runner, which does not hold the rollout {trace_id}: it has ended, was cancelled, "
        "or is another runner's by now"
    )
