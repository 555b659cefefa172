"""What keeps a run from going on although nothing has failed: its team is disabled, or there is no runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from store.planes.runner_presence import takes_work_sql
from store.tables import RunRow, RunStepRow, TeamRow

_HAS_RUNNER = text(f"""
    select exists (
        select from runners r
        where {takes_work_sql("r")} and 'rollout' = any(r.kinds) and (r.team_id is null or r.team_id = :team_id)
    )
""")  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Obstacle:
    """stops_all: nothing is done meanwhile; otherwise rollouts alone stand still."""

    sentence: str
    stops_all: bool


async def obstacle_of(session: AsyncSession, run: RunRow, rows: Sequence[RunStepRow]) -> Obstacle | None:
    """`rows`: the steps that are not done."""
    team = await session.get_one(TeamRow, run.team_id)
    if team.disabled_at is not None:
        return Obstacle(f"the team {team.name!r} is disabled; an operator can enable it ('headway team enable')", True)
    rolls_out = any(row.phase == "rolling_out" and row.rolled_out_at is None for row in rows)
    if rolls_out and not await session.scalar(_HAS_RUNNER, {"team_id": run.team_id}):
        return Obstacle("no runner takes rollouts; start one with 'headway runner', or undrain one", False)
    return None
