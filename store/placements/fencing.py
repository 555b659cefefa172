"""What keys of agents open: the rollouts of their team that their runner holds just now."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncConnection

_HELD = """
    select p.id, p.attempt, k.model_ids
    from hosted_rollouts h join placements p on p.id = h.placement_id left join api_keys k on k.id = h.key_id
    where h.team_id = %(team_id)s and h.trace_id = %(trace_id)s and p.runner_id = %(runner_id)s
        and p.state = 'running' and p.cancelled_at is null
"""

_UNTIL_COMMITTED = f"{_HELD} for share of p"

_IS_HOSTED = "select from hosted_rollouts where team_id = %(team_id)s and trace_id = %(trace_id)s"


@dataclass(frozen=True, slots=True)
class HeldRollout:
    """A rollout that is under way on a runner. `model_ids`: the only models that the key opens which submitted it;
    None: all of the team's."""

    placement_id: UUID
    attempt: int
    model_ids: list[UUID] | None


async def held_rollout(
    connection: AsyncConnection, team_id: UUID, trace_id: UUID, runner_id: UUID, *, lock: bool = False
) -> HeldRollout | None:
    """The rollout of that trace, where this runner holds it and nobody has cancelled it. lock: it stays so until the
    transaction ends."""
    asked = {"team_id": team_id, "trace_id": trace_id, "runner_id": runner_id}
    row = await (await connection.execute(_UNTIL_COMMITTED if lock else _HELD, asked)).fetchone()
    return HeldRollout(*row) if row else None


async def is_hosted(connection: AsyncConnection, team_id: UUID, trace_id: UUID) -> bool:
    """Whether the rollout of that trace is, or was, carried out by runners."""
    asked = {"team_id": team_id, "trace_id": trace_id}
    return await (await connection.execute(_IS_HOSTED, asked)).fetchone() is not None
