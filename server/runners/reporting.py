"""What a runner says of a placement that it holds. Of one that it does not hold (any more): PlacementLost."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.builds import append_log
from server.principals.callers import Caller
from server.runners.registering import own_runner
from server.runners.settling import settle
from server.runners.taking_back import give_back
from server.values.sanitizing import storable_text
from store.database import AsyncDatabase
from store.placements.ending import hold, is_held, lock, placement_lost
from store.placements.rollout_reports import report_completed, report_ready
from store.tables import RunnerRow
from wire.errors import InvalidRequest
from wire.placements import End, Ended, LogLines, Ready

_NO_REASON = "the runner did not say why"


async def ready(database: AsyncDatabase, caller: Caller, runner_id: UUID, placement_id: UUID, said: Ready) -> None:
    """Its environment answers. Raises NotFound, PlacementLost."""
    async with database.connection() as connection:
        if await report_ready(connection, caller.team_id, runner_id, placement_id, said.attempt):
            return
    async with database.session() as session:
        await own_runner(session, caller, runner_id)
    raise placement_lost(placement_id, said.attempt)


async def log_lines(session: AsyncSession, runner: RunnerRow, placement_id: UUID, said: LogLines) -> None:
    """Lines of a build. Raises PlacementLost, InvalidRequest for what is no build."""
    row = await hold(session, runner.id, placement_id, said.attempt)
    if row.kind != "build" or row.build_id is None:
        raise InvalidRequest(f"the placement {placement_id} is a {row.kind}: only builds have a log")
    await append_log(session, row.build_id, said.attempt, said.first, said.lines)


async def end(database: AsyncDatabase, caller: Caller, runner_id: UUID, placement_id: UUID, said: End) -> Ended:
    """It is over, or handed back; the same again is answered the same. Raises NotFound, PlacementLost."""
    if said.outcome == "completed":
        async with database.connection() as connection:
            if await report_completed(connection, caller.team_id, runner_id, placement_id, said.attempt):
                return Ended(state="ended", outcome="completed")
    async with database.session() as session:
        return await _end(session, await own_runner(session, caller, runner_id), placement_id, said)


async def _end(session: AsyncSession, runner: RunnerRow, placement_id: UUID, said: End) -> Ended:
    row = await lock(session, placement_id)
    if row is None or (row.runner_id, row.attempt) != (runner.id, said.attempt):
        raise placement_lost(placement_id, said.attempt)
    if is_held(row, runner.id, said.attempt):
        error = None if said.error is None else storable_text(said.error)
        if said.outcome == "handed_back" or (said.outcome == "cancelled" and row.cancelled_at is None):
            await give_back(session, row, error or _NO_REASON, counts=False)  # nobody asked for the end of this attempt
        else:
            await settle(session, row, said.outcome, error, said.manifest)
    elif row.state == "queued" and said.outcome != "handed_back":
        raise placement_lost(placement_id, said.attempt)
    return Ended(state=row.state, outcome=row.outcome)
