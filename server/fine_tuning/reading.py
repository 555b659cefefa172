"""Fine-tuning jobs as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from server.fine_tuning.types import SOURCE, Job, JobCheckpoint, JobDetails
from server.principals.callers import Caller
from server.runs.creating import KEY_KEPT_FOR
from server.runs.metrics import describe_metrics
from server.runs.reading import describe
from server.values.sanitizing import is_storable
from store.tables import CheckpointRow, ModelRow, RunRow, RunStepRow
from wire.errors import Conflict, NotFound

_RETRIED_WITHIN = timedelta(minutes=10)
_OF_A_STEP = ("reward", "reward_std", "loss", "kl", "learning_rate")


async def find_job(session: AsyncSession, caller: Caller, run_id: UUID | None) -> Job:
    """Raises NotFound, and Forbidden where the caller's key is for other models. None: it is no id of a job at all."""
    row = (await session.execute(_jobs(caller).where(RunRow.id == run_id))).first() if run_id is not None else None
    if row is None:
        raise NotFound("the team has no such fine-tuning job", param="fine_tuning_job_id")
    run, model = row
    caller.require_model(model.id, model.slug)
    return _job(run, model)


async def list_jobs(
    session: AsyncSession, caller: Caller, after: UUID | None, limit: int, metadata: Mapping[str, str]
) -> tuple[list[Job], bool]:
    """Jobs behind `after`, newest first, and whether more follow. `metadata`: those that have all of it."""
    query = _jobs(caller)
    if caller.model_ids is not None:
        query = query.where(RunRow.model_id.in_(caller.model_ids))
    for key, value in metadata.items():
        if not is_storable(key + value):
            return [], False
        query = query.where(RunRow.details["metadata"][key].as_string() == value)
    if after is not None:
        query = query.where(tuple_(RunRow.created_at, RunRow.id) < await _place_of(session, caller, after))
    rows = (await session.execute(query.order_by(RunRow.created_at.desc(), RunRow.id.desc()).limit(limit + 1))).all()
    return [_job(run, model) for run, model in rows[:limit]], len(rows) > limit


async def repeated(
    session: AsyncSession, caller: Caller, digest: str, key: str | None, *, is_retry: bool
) -> Job | None:
    """The job that this very request has made: by its Idempotency-Key, or not long ago where the client says that it
    tries again. Raises Conflict for a key that came with another request."""
    age = func.clock_timestamp() - RunRow.created_at
    is_same: ColumnElement[bool]
    if key is not None:
        is_same = and_(RunRow.idempotency_key == key, age < KEY_KEPT_FOR)
    elif is_retry:
        is_recent = and_(RunRow.key_id == caller.key_id, age < _RETRIED_WITHIN)
        is_same = and_(is_recent, RunRow.details["request_digest"].as_string() == digest)
    else:
        return None
    query = _jobs(caller).where(is_same).order_by(RunRow.created_at.desc()).limit(1)
    row = (await session.execute(query)).first()
    if row is None:
        return None
    job = _job(*row)
    caller.require_model(job.run.model_id, job.run.model)
    if job.details.request_digest != digest:
        raise Conflict("the Idempotency-Key of this request was used for another job; send a new key")
    return job


async def checkpoints_of(
    session: AsyncSession, job: Job, after: UUID | None, limit: int
) -> tuple[list[JobCheckpoint], bool]:
    """Those that have files, newest first, behind the checkpoint `after`; and whether more follow."""
    query = (
        select(RunStepRow, CheckpointRow)
        .join(CheckpointRow, CheckpointRow.id == RunStepRow.checkpoint_id)
        .where(RunStepRow.run_id == job.run.id, RunStepRow.kind == "train", RunStepRow.phase == "done")
        .where(CheckpointRow.is_saved, CheckpointRow.files_removed_at.is_(None))
    )
    if after is not None:
        step = await session.scalar(query.where(CheckpointRow.id == after).with_only_columns(RunStepRow.step))
        if step is None:
            raise NotFound("the job has no such checkpoint", param="after")
        query = query.where(RunStepRow.step < step)
    rows = (await session.execute(query.order_by(RunStepRow.step.desc()).limit(limit + 1))).all()
    return [_checkpoint(step, row) for step, row in rows[:limit]], len(rows) > limit


async def trained_tokens(session: AsyncSession, jobs: Sequence[Job]) -> dict[UUID, int]:
    """By job: the tokens of its checkpoints' batches."""
    tokens = func.coalesce(func.sum(CheckpointRow.num_tokens), 0)
    query = (
        select(RunStepRow.run_id, tokens)
        .join(CheckpointRow, CheckpointRow.id == RunStepRow.checkpoint_id)
        .where(RunStepRow.run_id.in_([job.run.id for job in jobs]), RunStepRow.kind == "train")
        .group_by(RunStepRow.run_id)
    )
    return {run_id: int(number or 0) for run_id, number in await session.execute(query)}


def _jobs(caller: Caller) -> Select[RunRow, ModelRow]:
    query = select(RunRow, ModelRow).join(ModelRow, ModelRow.id == RunRow.model_id)
    return query.where(RunRow.team_id == caller.team_id, RunRow.source == SOURCE)


async def _place_of(session: AsyncSession, caller: Caller, run_id: UUID) -> ColumnElement[tuple[object, ...]]:
    row = (await session.execute(_jobs(caller).where(RunRow.id == run_id))).first()
    if row is None:
        raise NotFound("after: the team has no such fine-tuning job", param="after")
    return tuple_(row[0].created_at, row[0].id)


def _job(run: RunRow, model: ModelRow) -> Job:
    return Job(describe(run, model), JobDetails.model_validate(run.details))


def _checkpoint(step: RunStepRow, row: CheckpointRow) -> JobCheckpoint:
    figures = describe_metrics(step).model_dump(include=set(_OF_A_STEP), exclude_none=True)
    return JobCheckpoint(row.id, row.name, step.step, row.created_at, figures)
