"""The end of a hosted rollout: what its attempt reported becomes the trace's exit, in one transaction with the
placement's end. A client that sees it end may train on it in the same moment."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.rollouts import service
from server.rollouts.types import TraceExited
from store.tables import HostedRolloutRow, PlacementRow, TraceRow

FinalOutcome = Literal["completed", "failed", "cancelled"]

NO_EXIT = "the agent ended without having reported how the rollout went"
_NO_REASON = "the runner gave it up without saying why"


async def finish_rollout(
    session: AsyncSession, placement: PlacementRow, outcome: FinalOutcome, error: str | None
) -> tuple[FinalOutcome, str | None]:
    """Give the trace its end; and the placement's, which is `failed` where nothing was reported."""
    row = await session.get_one(HostedRolloutRow, placement.id)
    if outcome == "completed" and row.reported_exit is not None:
        report = TraceExited.model_validate(row.reported_exit)
    elif outcome == "cancelled":
        report = TraceExited(status="cancelled", error=error)
    else:
        outcome, error = "failed", error or (NO_EXIT if outcome == "completed" else _NO_REASON)
        report = TraceExited(status="error", error=error)
    if not await _is_over(session, row):
        await service.exit_(session, row.team_id, row.trace_id, report)
    return outcome, error


async def _is_over(session: AsyncSession, row: HostedRolloutRow) -> bool:
    """Whether its trace has ended, by a cancellation, or is gone."""
    query = select(TraceRow.status).where(TraceRow.team_id == row.team_id, TraceRow.id == row.trace_id)
    found = (await session.execute(query.with_for_update())).one_or_none()
    return found is None or found.status is not None
