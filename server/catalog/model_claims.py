"""A run and its model: while the run lives, nobody else trains the model."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.admission import Admission
from store.run_states import LIVE
from store.tables import RunRow
from wire.errors import FINAL, Conflict


class ModelInRun(Conflict):
    """A run trains the model."""

    code: ClassVar[str] = "model_in_run"
    tries: ClassVar[int | None] = FINAL


async def live_run_of(session: AsyncSession, model_id: UUID) -> RunRow | None:
    """The run to which the model belongs now."""
    return await session.scalar(select(RunRow).where(RunRow.model_id == model_id, RunRow.state.in_(LIVE)))


def run_in_the_way(slug: str, run: RunRow) -> ModelInRun:
    """The refusal of a second run."""
    return ModelInRun(
        f"the model {slug!r} is being trained by the run {run.id} ({run.state}); wait for its end, or end it with "
        f"'headway runs cancel {run.id}' (POST /v2/runs/{run.id}/cancel)"
    )


def refuse_run_of_others(found: Admission, run_id: UUID | None) -> None:
    """Raises ModelInRun for a training call on a model that a run trains; `run_id`: the run that calls."""
    if found.run_id is not None and found.run_id != run_id:
        raise ModelInRun(
            f"the model {found.slug!r} is being trained by the run {found.run_id}, so nobody else trains it; wait for "
            f"the run's end, or end it with 'headway runs cancel {found.run_id}' "
            f"(POST /v2/runs/{found.run_id}/cancel)"
        )
