"""What a runner does not finish: it is queued again, or has ended where that makes no sense any more."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.runners.settling import settle
from store.database import AsyncDatabase
from store.placements.ending import MOST_ATTEMPTS, lock, requeue
from store.tables import PlacementRow

_PAUSE_S, _MOST_PAUSE_S = 1.0, 10.0
"""Of what was handed back more than once."""


async def take_back(database: AsyncDatabase, placement_id: UUID, runner_id: UUID, why: str, *, counts: bool) -> bool:
    """Take a placement from this runner; whether it still had it. In a transaction of its own: ends lock traces, and
    several would have to be locked in the order of their ids."""
    async with database.session() as session:
        row = await lock(session, placement_id)
        if row is None or row.state != "running" or row.runner_id != runner_id:
            return False
        await give_back(session, row, why, counts=counts)
    return True


async def give_back(session: AsyncSession, row: PlacementRow, why: str, *, counts: bool) -> None:
    """The runner of this placement, which is locked, will not end it, for the reason that the end of a sentence gives.
    counts: this attempt is one of those that it may have."""
    if row.cancelled_at is not None:
        await settle(session, row, "cancelled", None)
    elif row.kind == "session" and row.ready_at is not None:
        await settle(session, row, "failed", f"the environment is gone, with all that it had in memory: {why}")
    elif counts and row.attempt >= row.max_attempts:
        await settle(session, row, "failed", f"given up after {_attempts(row.attempt)}: of the last one, {why}")
    elif row.attempt >= MOST_ATTEMPTS:
        await settle(
            session, row, "failed", f"given up after it was handed back {row.attempt} times: of the last, {why}"
        )
    else:
        row.error = why
        pause_s = 0.0 if row.attempt <= 1 else min(_PAUSE_S * (row.attempt - 1), _MOST_PAUSE_S)
        await requeue(session, row, pause_s=pause_s, counts=counts)


def _attempts(number: int) -> str:
    return "one attempt" if number == 1 else f"{number} attempts"
