"""The end of a placement, in one transaction with what it means for whatever was placed."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.builds import finish_build
from server.hosted_rollouts.ending import finish_rollout
from store.placements.ending import mark_ended
from store.tables import PlacementRow

FinalOutcome = Literal["completed", "failed", "cancelled"]


async def settle(
    session: AsyncSession,
    row: PlacementRow,
    outcome: FinalOutcome,
    error: str | None,
    manifest: dict[str, Any] | None = None,
) -> None:
    """End a placement, which is locked. One that was cancelled ends so, whatever its runner says."""
    if row.cancelled_at is not None:
        outcome = "cancelled"
    if row.kind == "build" and row.build_id is not None:
        await finish_build(session, row.build_id, outcome, error, manifest)
    if row.kind == "rollout":
        outcome, error = await finish_rollout(session, row, outcome, error)
    await mark_ended(session, row, outcome, error)
