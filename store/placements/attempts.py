"""What attempts at a rollout leave on record: of several, the last one alone.

A new attempt empties the trace and puts its number into the trace's row, under the row's lock. Who records a sample
takes that lock, too, and finds there whether it is of the present attempt (`store.rollouts.statements`): so what an
earlier one had under way is not recorded any more.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

_IDS = bindparam("ids", type_=ARRAY(Uuid))

_LOCK = text("""
    select from traces t join hosted_rollouts h on (h.team_id, h.trace_id) = (t.team_id, t.id)
    where h.placement_id = any(:ids) order by t.team_id, t.id for update of t
""").bindparams(_IDS)

_FORGET = [
    text(statement).bindparams(_IDS)
    for statement in (
        """
        delete from samples s using hosted_rollouts h
        where h.placement_id = any(:ids) and (s.team_id, s.trace_id) = (h.team_id, h.trace_id)
        """,
        """
        delete from spans s using hosted_rollouts h
        where h.placement_id = any(:ids) and (s.team_id, s.trace_id) = (h.team_id, h.trace_id)
        """,
        """
        update traces t set attempt = p.attempt, last_activity_at = clock_timestamp(),
            num_turns = 0, num_samples = 0, num_prompt_tokens = 0, num_output_tokens = 0,
            checkpoint_ids = '{}', flags = '{}', evaluated_reward = null, entered_at = null, extra = null
        from hosted_rollouts h join placements p on p.id = h.placement_id
        where h.placement_id = any(:ids) and (t.team_id, t.id) = (h.team_id, h.trace_id)
        """,
        "update hosted_rollouts set reported_exit = null where placement_id = any(:ids)",
    )
]


async def begin_attempts(session: AsyncSession, placement_ids: Collection[UUID]) -> None:
    """Attempts of these placements of rollouts begin: all is removed that is on record of their traces."""
    ids = {"ids": list(placement_ids)}
    for statement in (_LOCK, *_FORGET):
        await session.execute(statement, ids)
