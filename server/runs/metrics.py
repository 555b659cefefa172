"""What the steps and evaluations of a run came to."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.types import RunMetrics, RunMetricsPage
from store.tables import RunStepRow

_KINDS = {"train": "step", "held_out": "eval"}


async def metrics_of(session: AsyncSession, run_id: UUID, after: int = -1) -> RunMetricsPage:
    """Of all that is done, by step; `after`: of later steps alone."""
    query = select(RunStepRow).where(RunStepRow.run_id == run_id, RunStepRow.phase == "done", RunStepRow.step > after)
    rows = await session.scalars(query.order_by(RunStepRow.step, RunStepRow.kind.desc()))
    return RunMetricsPage(items=[describe_metrics(row) for row in rows])


def describe_metrics(row: RunStepRow) -> RunMetrics:
    """Of one row that is done."""
    figures: dict[str, Any] = row.metrics or {}
    known = {name: figures[name] for name in RunMetrics.model_fields if name in figures}
    facts = {
        "kind": _KINDS[row.kind],
        "step": row.step,
        "at": row.ended_at or row.began_at,
        "checkpoint_id": row.checkpoint_id,
        "score": row.score,
    }
    return RunMetrics.model_validate({"num_rollouts": 0, "num_errors": 0, **known, **facts})
