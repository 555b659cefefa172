"""Runs as they are read."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from sqlalchemy import any_, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.service import get_callers_model
from server.principals.callers import Caller
from server.runs.settings import HeldOut, RunConfig, StopRules
from server.runs.types import Run, State
from server.values.paging import Page, page_of
from server.values.sanitizing import is_storable
from store.tables import ModelRow, RunRow
from wire.errors import NotFound


async def list_runs(
    session: AsyncSession,
    caller: Caller,
    *,
    model: str | None = None,
    state: State | None = None,
    source: str | None = None,
    tag: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Run]:
    """The team's runs of models that the key opens, newest first. Raises NotFound for the model."""
    query = select(RunRow, ModelRow).join(ModelRow, ModelRow.id == RunRow.model_id)
    query = query.where(RunRow.team_id == caller.team_id)
    if caller.model_ids is not None:
        query = query.where(RunRow.model_id.in_(caller.model_ids))
    if model is not None:
        query = query.where(RunRow.model_id == (await get_callers_model(session, caller, model)).id)
    if state is not None:
        query = query.where(RunRow.state == state)
    if source is not None:
        query = query.where(RunRow.source == source)
    if tag is not None:
        query = query.where(literal(tag) == any_(RunRow.tags) if is_storable(tag) else RunRow.id.is_(None))
    place = RunRow.created_at, RunRow.id
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return Page(items=[describe(run, of) for run, of in rows], next_cursor=following)


async def get_run(session: AsyncSession, caller: Caller, run_id: UUID) -> Run:
    """One run. Raises NotFound, and Forbidden where the caller's key is for other models."""
    return describe(*await find_run(session, caller, run_id))


async def find_run(
    session: AsyncSession, caller: Caller, run_id: UUID, *, lock: bool = False
) -> tuple[RunRow, ModelRow]:
    """The team's run and its model. Raises as `get_run`."""
    query = select(RunRow, ModelRow).join(ModelRow, ModelRow.id == RunRow.model_id)
    query = query.where(RunRow.team_id == caller.team_id, RunRow.id == run_id)
    row = (await session.execute(query.with_for_update(of=RunRow) if lock else query)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id}; see 'headway runs list'")
    caller.require_model(row[1].id, row[1].slug)
    return row[0], row[1]


async def newest_of_model(session: AsyncSession, caller: Caller, model: ModelRow, source: str | None = None) -> Run:
    """The model's newest run. Raises NotFound where there is none."""
    query = select(RunRow).where(RunRow.team_id == caller.team_id, RunRow.model_id == model.id)
    if source is not None:
        query = query.where(RunRow.source == source)
    run = (await session.scalars(query.order_by(RunRow.created_at.desc()).limit(1))).first()
    if run is None:
        raise NotFound(f"no run has trained the model {model.slug!r}")
    return describe(run, model)


def describe(run: RunRow, model: ModelRow) -> Run:
    """As clients see it."""
    return Run(
        id=run.id,
        name=run.name,
        model_id=run.model_id,
        model=model.slug,
        taskset=run.taskset or "",
        num_tasks=run.num_tasks,
        tags=run.tags,
        config=RunConfig.model_validate(run.config),
        held_out=HeldOut.model_validate(run.held_out) if run.held_out is not None else None,
        stop=StopRules.model_validate(run.stop),
        metadata=run.user_metadata or {},
        state=cast(State, run.state),
        step=run.step,
        steps=run.config["steps"],
        reward=run.reward,
        held_out_score=run.held_out_score,
        best_held_out_score=run.best_held_out_score,
        start_checkpoint_id=run.start_checkpoint_id,
        checkpoint_id=run.checkpoint_id,
        best_checkpoint_id=run.best_checkpoint_id,
        job_id=run.job_id,
        held_out_job_id=run.held_out_job_id,
        error=run.error,
        stop_reason=run.stop_reason,
        waiting_for=run.waiting_for,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )
