"""What attempts at a rollout leave on record: of several, the last one alone.

A new attempt empties the trace and puts its number into the trace's row, under the row's lock. Who records a sample
takes that lock, too, and finds there whether it is of the present attempt (`store.rollouts.statements`): so what an
earlier one had under way is not recorded any more.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from store.database import AsyncConnection

_LOCK = """
    select from traces t join hosted_rollouts h on (h.team_id, h.trace_id) = (t.team_id, t.id)
    where h.placement_id = any(%(ids)s) order by t.team_id, t.id for update of t
"""
_FORGET = (
    """
    delete from samples s using hosted_rollouts h
    where h.placement_id = any(%(ids)s) and (s.team_id, s.trace_id) = (h.team_id, h.trace_id)
    """,
    """
    delete from spans s using hosted_rollouts h
    where h.placement_id = any(%(ids)s) and (s.team_id, s.trace_id) = (h.team_id, h.trace_id)
    """,
    """
    delete from trace_pictures p using hosted_rollouts h
    where h.placement_id = any(%(ids)s) and (p.team_id, p.trace_id) = (h.team_id, h.trace_id)
    """,
    """
    update traces t set attempt = p.attempt, last_activity_at = clock_timestamp(),
        num_turns = 0, num_samples = 0, num_prompt_tokens = 0, num_output_tokens = 0,
        checkpoint_ids = '{}', flags = '{}', evaluated_reward = null, entered_at = null, extra = null
    from hosted_rollouts h join placements p on p.id = h.placement_id
    where h.placement_id = any(%(ids)s) and (t.team_id, t.id) = (h.team_id, h.trace_id)
    """,
    "update hosted_rollouts set reported_exit = null where placement_id = any(%(ids)s)",
)


async def begin_another_attempt(connection: AsyncConnection, placement_ids: Collection[UUID]) -> None:
    """Attempts of these placements of rollouts begin that are not the first: all is removed that is on record of their
    traces. In the transaction that gives them to a runner."""
    for statement in (_LOCK, *_FORGET):
        await connection.execute(statement, {"ids": list(placement_ids)})
