"""The removal of a team from its beginning to its end, which waits for the end of its runs."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import func, select

from server.audit.recording import Actor
from server.team import service
from server.team.removing import begin_removal, finish_removal
from store.database import AsyncDatabase
from store.run_states import LIVE
from store.tables import RunRow
from wire.errors import Unavailable

_WAITS_S, _POLL_S = 20.0, 0.5


async def remove_team(
    database: AsyncDatabase, reference: str, models: int | None, runs: int | None, actor: Actor
) -> None:
    """Remove a team: one that never had anything without a trace, another with all that it has.

    Raises NotFound, Conflict as `begin_removal`, Unavailable where its runs have not ended in time.
    """
    async with database.session() as session:
        team = await service.get_team(session, reference)
        if await service.delete_empty_team(session, team, actor):
            return
    async with database.session() as session:
        team = await service.get_team(session, reference)
        await begin_removal(session, team, models, runs, actor)
        team_id = team.id
    until = time.monotonic() + _WAITS_S
    live = select(func.count()).where(RunRow.team_id == team_id, RunRow.state.in_(LIVE))
    while True:
        async with database.session() as session:
            if not await session.scalar(live):
                break
        if time.monotonic() > until:
            raise Unavailable(
                "its runs are being cancelled and have not ended, and its keys are refused; the same call goes on",
                retry_after_s=5,
            )
        await asyncio.sleep(_POLL_S)
    async with database.session() as session:
        await finish_removal(session, await service.get_team(session, str(team_id)), actor)
