"""Rollouts of the playground, where they were asked for: ended with each answer, without a reward."""

from __future__ import annotations

from uuid import UUID

from server.principals.callers import Caller
from server.rollouts import service
from server.rollouts.types import TraceExited
from store.database import AsyncDatabase

_EXIT = TraceExited(status="completed", stop_reason="playground")


async def end_recorded(database: AsyncDatabase, caller: Caller, trace_id: UUID | None) -> None:
    """Nothing where nothing was to be recorded."""
    if trace_id is None:
        return
    async with database.session() as session:
        await service.exit_(session, caller.team_id, trace_id, _EXIT)
