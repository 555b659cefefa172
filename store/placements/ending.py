"""How placements leave their runner: ended, or back into the queue."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from store.notify import PLACEMENT_CHANGED, PLACEMENT_QUEUED, notify_async
from store.planes.runner_presence import lives_sql
from store.tables import ApiKeyRow, PlacementRow, RunnerRow
from wire.errors import PlacementLost

MOST_ATTEMPTS = 50
"""With those that were handed back."""

_REQUEUE_THE_LOST = text(f"""
    with lost as (
        select p.id from placements p join runners r on r.id = p.runner_id
        where p.state = 'running' and not {lives_sql("r")} and p.cancelled_at is null and p.attempt < p.max_attempts
            and (p.kind <> 'session' or p.ready_at is null)
        order by p.id for update of p skip locked
    )
    update placements p set state = 'queued', taken_at = null, ready_at = null, error = :why,
        available_at = clock_timestamp() + make_interval(secs => least(p.attempt - 1, 10))
    from lost where p.id = lost.id
    returning p.kind, pg_notify(:changed, replace(p.id::text, '-', '')), pg_notify(:queued, '')
""")
_OF_THE_LOST = text(f"""
    select p.id, p.runner_id, p.kind from placements p join runners r on r.id = p.runner_id
    where p.state = 'running' and not {lives_sql("r")}
    order by p.id limit :limit
""")


async def lock(session: AsyncSession, placement_id: UUID) -> PlacementRow | None:
    """The placement, until the transaction ends."""
    query = select(PlacementRow).where(PlacementRow.id == placement_id).with_for_update()
    return await session.scalar(query.execution_options(populate_existing=True))


async def hold(session: AsyncSession, runner_id: UUID, placement_id: UUID, attempt: int) -> PlacementRow:
    """The placement, locked, where the runner has this attempt of it. Raises PlacementLost."""
    row = await lock(session, placement_id)
    if row is None or not is_held(row, runner_id, attempt):
        raise placement_lost(placement_id, attempt)
    return row


def is_held(row: PlacementRow, runner_id: UUID, attempt: int) -> bool:
    """Whether the runner has this attempt of it."""
    return row.state == "running" and row.runner_id == runner_id and row.attempt == attempt


def placement_lost(placement_id: UUID, attempt: int) -> PlacementLost:
    """The refusal of what a runner says of a placement that it does not hold."""
    return PlacementLost(f"this runner does not hold attempt {attempt} of the placement {placement_id}; drop it")


async def mark_ended(session: AsyncSession, row: PlacementRow, outcome: str, error: str | None) -> None:
    """It is over."""
    row.state, row.outcome, row.error = "ended", outcome, error or row.error
    row.ended_at = func.clock_timestamp()
    await session.flush()
    await notify_async(session, PLACEMENT_CHANGED, row.id.hex)


async def requeue(session: AsyncSession, row: PlacementRow, *, pause_s: float = 0, counts: bool = True) -> None:
    """Another runner takes it, after so many seconds. counts: this attempt is one of `max_attempts`."""
    row.state, row.taken_at, row.ready_at = "queued", None, None
    row.max_attempts += 0 if counts else 1
    row.available_at = func.clock_timestamp() + timedelta(seconds=pause_s)
    await session.flush()
    await notify_async(session, PLACEMENT_QUEUED, "")
    await notify_async(session, PLACEMENT_CHANGED, row.id.hex)


async def requeue_what_the_lost_held(session: AsyncSession, why: str) -> list[str]:
    """Have others take what is not at its last attempt; the kinds of all that is."""
    asked = {"why": why, "changed": PLACEMENT_CHANGED, "queued": PLACEMENT_QUEUED}
    return [row.kind for row in await session.execute(_REQUEUE_THE_LOST, asked)]


async def placements_of_the_lost(session: AsyncSession, limit: int) -> list[tuple[UUID, UUID, str]]:
    """What runners hold that live no more, which ones, and its kind."""
    return [(row.id, row.runner_id, row.kind) for row in await session.execute(_OF_THE_LOST, {"limit": limit})]


async def drop_keys_of_the_lost(session: AsyncSession) -> None:
    """Keys of the agents of runners that live no more and hold nothing: an agent whose rollout is still there would
    take the refusal of its key for the end of it."""
    holds = exists().where(PlacementRow.runner_id == RunnerRow.id, PlacementRow.state == "running")
    lost = select(RunnerRow.id).where(text(f"not {lives_sql('runners')}"), ~holds)
    await session.execute(delete(ApiKeyRow).where(ApiKeyRow.runner_id.in_(lost)))
