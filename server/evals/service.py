"""Held-out scores of a model: posted, listed, removed; and jobs that are marked as evaluations."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.bases import untrained
from server.catalog.service import get_checkpoint
from server.evals.jobs import benchmark_of
from server.guard.reading import BASE
from server.guard.settings import in_full, names_an_evaluation
from server.guard.types import Eval, EvalRequest, EvaluationJob, EvaluationMark
from server.principals.callers import Caller
from server.values.paging import Page, page_of
from server.values.sanitizing import is_storable, storable_json
from store.notify import GUARD_DUE, notify_async
from store.tables import CheckpointRow, EvalRow, GuardRow, JobRow, ModelRow, TraceRow
from wire.errors import InvalidRequest, NotFound


async def add_eval(session: AsyncSession, caller: Caller, model: ModelRow, request: EvalRequest) -> Eval:
    """Keep a score of one of the model's checkpoints. Raises NotFound for the checkpoint."""
    if model.base_id is None:
        raise InvalidRequest(
            f"{model.slug!r} is {untrained(model)}; fork a base, and post the score of 'base' to the fork"
        )
    checkpoint = await _scored(session, model, request.checkpoint)
    row = EvalRow(
        model_id=model.id,
        checkpoint_id=checkpoint.id if checkpoint else None,
        benchmark=request.benchmark,
        score=request.score,
        n=request.n,
        stderr=request.stderr,
        higher_is_better=request.higher_is_better,
        mixed=False,
        details=storable_json(request.metadata, "metadata") if request.metadata else None,
    )
    session.add(row)
    await session.flush()
    facts = {"benchmark": row.benchmark, "score": row.score, "checkpoint": checkpoint.name if checkpoint else BASE}
    record(session, actor_of(caller), "post_eval", team_id=model.team_id, subject_id=model.id, **facts)
    await notify_async(session, GUARD_DUE, model.id.hex)
    return _describe(row, checkpoint)


async def list_evals(
    session: AsyncSession, model_id: UUID, benchmark: str | None, cursor: str | None, limit: int
) -> Page[Eval]:
    """A model's scores, newest first; of one benchmark, or of all."""
    query = select(EvalRow, CheckpointRow).outerjoin(CheckpointRow, CheckpointRow.id == EvalRow.checkpoint_id)
    query = query.where(EvalRow.model_id == model_id)
    if benchmark is not None:
        query = query.where(EvalRow.benchmark == (benchmark if is_storable(benchmark) else ""))
    place = (EvalRow.created_at, EvalRow.id)
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return Page(items=[_describe(*row) for row in rows], next_cursor=following)


async def remove_eval(session: AsyncSession, caller: Caller, model: ModelRow, eval_id: UUID) -> Eval:
    """Forget a score that was posted by mistake; a job's comes back unless the job is unmarked. Raises NotFound."""
    query = select(EvalRow, CheckpointRow).outerjoin(CheckpointRow, CheckpointRow.id == EvalRow.checkpoint_id)
    found = (await session.execute(query.where(EvalRow.id == eval_id, EvalRow.model_id == model.id))).first()
    if found is None:
        raise NotFound(f"model {model.slug!r} has no eval {eval_id}")
    row, checkpoint = found
    await session.delete(row)
    facts = {"benchmark": row.benchmark, "score": row.score}
    record(session, actor_of(caller), "remove_eval", team_id=model.team_id, subject_id=model.id, **facts)
    return _describe(row, checkpoint)


async def mark_job(session: AsyncSession, caller: Caller, job_id: UUID, mark: EvaluationMark) -> EvaluationJob:
    """Say that a job is an evaluation, or that it is none. Raises NotFound, and Forbidden where the caller's key is not
    for the models of its rollouts."""
    job = await session.get(JobRow, (caller.team_id, job_id), with_for_update=True)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    await _require_models(session, caller, job_id)
    job.is_evaluation = mark.evaluation
    job.benchmark = (mark.benchmark or benchmark_of(job.name)) if mark.evaluation else None
    job.scored_at = None
    models = ModelRow.__table__.select().with_only_columns(ModelRow.id).where(ModelRow.team_id == caller.team_id)
    # Scored anew, under the name that it has now.
    await session.execute(delete(EvalRow).where(EvalRow.job_id == job_id, EvalRow.model_id.in_(models)))
    facts = {"evaluation": mark.evaluation, "benchmark": job.benchmark}
    record(session, actor_of(caller), "mark_job", team_id=caller.team_id, subject_id=job_id, **facts)
    return EvaluationJob(job_id=job_id, evaluation=mark.evaluation, benchmark=job.benchmark)


async def evaluation_traces(
    session: AsyncSession, team_id: UUID, model_id: UUID, trace_ids: list[UUID]
) -> dict[UUID, str]:
    """Those of the team's rollouts that belong to evaluations, by a flag or by name, and their jobs' names."""
    named = literal(trace_ids, ARRAY(Uuid))  # as one parameter: a batch may name more than there may be
    query = (
        select(TraceRow.id, JobRow.name, JobRow.is_evaluation)
        .join(JobRow, (JobRow.team_id == TraceRow.team_id) & (JobRow.id == TraceRow.job_id))
        .where(TraceRow.team_id == team_id, TraceRow.id == any_(named), JobRow.is_evaluation.is_not(False))
    )
    found = (await session.execute(query)).all()
    if not found:
        return {}
    patterns = in_full(await session.get(GuardRow, model_id)).eval_jobs
    return {
        trace_id: name or "without a name"
        for trace_id, name, is_evaluation in found
        if is_evaluation or names_an_evaluation(patterns, name)
    }


async def _require_models(session: AsyncSession, caller: Caller, job_id: UUID) -> None:
    if caller.model_ids is None:
        return
    traces = select(TraceRow.model_id).where(TraceRow.team_id == caller.team_id, TraceRow.job_id == job_id)
    query = select(ModelRow).where(ModelRow.id.in_(traces))
    for model in await session.scalars(query):
        caller.require_model(model.id, model.slug)


async def _scored(session: AsyncSession, model: ModelRow, reference: str | None) -> CheckpointRow | None:
    if reference is None:
        return await session.get(CheckpointRow, model.served_id) if model.served_id else None
    return None if reference == BASE else await get_checkpoint(session, model, reference)


def _describe(row: EvalRow, checkpoint: CheckpointRow | None) -> Eval:
    return Eval(
        id=row.id,
        benchmark=row.benchmark,
        score=row.score,
        n=row.n,
        stderr=row.stderr,
        higher_is_better=row.higher_is_better,
        checkpoint_id=row.checkpoint_id,
        checkpoint_name=checkpoint.name if checkpoint else None,
        step=checkpoint.step if checkpoint else 0,
        training_reward=checkpoint.mean_reward if checkpoint else None,
        job_id=row.job_id,
        mixed=row.mixed,
        metadata=row.details or {},
        created_at=row.created_at,
    )
