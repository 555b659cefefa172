"""What the stop rules look at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.loop.stopping import Standing
from store.tables import RunEventRow, RunRow, RunStepRow


async def standing_of(session: AsyncSession, run: RunRow) -> Standing:
    """The run as it is now."""
    tokens = RunStepRow.metrics["num_tokens"].as_integer()
    query = select(func.coalesce(func.sum(tokens), 0)).where(RunStepRow.run_id == run.id)
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return Standing(
        reward=run.reward,
        scores=await scores_since_resumed(session, run),
        num_tokens=int(await session.scalar(query) or 0),
        seconds=(now - (run.started_at or now)).total_seconds(),
    )


async def scores_since_resumed(session: AsyncSession, run: RunRow) -> Sequence[float]:
    """Held-out scores by step. Those from before the run was resumed do not stop it again."""
    events = RunEventRow.run_id == run.id, RunEventRow.kind == "resumed"
    resumed_at = await session.scalar(select(func.max(RunEventRow.at)).where(*events))
    query = select(RunStepRow.score).where(
        RunStepRow.run_id == run.id, RunStepRow.kind == "held_out", RunStepRow.phase == "done"
    )
    if resumed_at is not None:
        query = query.where(RunStepRow.ended_at > resumed_at)
    found = await session.scalars(query.order_by(RunStepRow.step))
    return [score for score in found if score is not None]
