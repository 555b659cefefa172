"""Evaluation jobs: which jobs are some, and what their rollouts amount to.

A job is judged by its name once, when the first of its rollouts names a model; a flag set by hand counts before and
after. Its score is the mean reward of the rollouts that completed, for each checkpoint that served some, once none of
them runs and nothing has happened for a while; later rollouts bring it up to date.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.guard.settings import in_full, names_an_evaluation
from store.database import AsyncDatabase
from store.notify import GUARD_DUE, notify_async
from store.rollouts.traces import REWARD, STATUS
from store.tables import EvalRow, GuardRow, JobRow

_WINDOW = "interval '7 days'"
_BATCH = 200
_DECORATION = re.compile(r"\s*\(\d+ (tasks|times)\)")
_COUNTER = re.compile(
    r"[\s,;:#_/.@-]*(\b(step|epoch|iteration|iter|checkpoint|ckpt|run)\b[\s:#_=.-]*\d+|\d{4}-\d\d-\d\d[\d\s:.TZ-]*)$",
    re.I,
)

_UNDECIDED = text(f"""
    select j.team_id, j.id, j.name, t.model_id from jobs j
    join lateral (
        select model_id from traces t where t.team_id = j.team_id and t.job_id = j.id and t.model_id is not null limit 1
    ) t on true
    where j.is_evaluation is null and j.created_at > clock_timestamp() - {_WINDOW}
    order by j.created_at limit {_BATCH}
""")

_ENDED = text(f"""
    select j.team_id, j.id from jobs j
    join lateral (
        select max(t.last_activity_at) as active_at, bool_or({STATUS} = 'running') as is_running
        from traces t where t.team_id = j.team_id and t.job_id = j.id
    ) t on not t.is_running and t.active_at < clock_timestamp() - make_interval(secs => :settle_s)
        and (j.scored_at is null or t.active_at > j.scored_at)
    where j.is_evaluation and (j.scored_at is null or j.created_at > clock_timestamp() - {_WINDOW})
    order by j.created_at limit {_BATCH}
""")

_ROLLOUTS = text(f"""
    select t.model_id, {STATUS}, {REWARD}, s.checkpoints
    from traces t
    join models m on m.id = t.model_id and m.base_id is not null and m.removed_at is null
    left join lateral (
        select array_agg(distinct coalesce(s.checkpoint_id, :base)) as checkpoints from samples s
        where s.team_id = t.team_id and s.trace_id = t.id and s.model_id = t.model_id and s.served_at is not null
    ) s on true
    where t.team_id = :team_id and t.job_id = :job_id
""")
_BASE = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ScoredCheckpoint:
    """What a job's score is about. checkpoint_id: None: the base weights."""

    model_id: UUID
    checkpoint_id: UUID | None


async def score_jobs(database: AsyncDatabase, settle_s: float) -> int:
    """Find out about new jobs, and score the evaluations that have ended; how many were scored."""
    async with database.session() as session:
        await _decide(session)
    async with database.session() as session:
        ended = (await session.execute(_ENDED, {"settle_s": settle_s})).all()
    for team_id, job_id in ended:
        async with database.session() as session:
            await _score(session, team_id, job_id)
    return len(ended)


def benchmark_of(job_name: str | None) -> str:
    """The series that a job's score belongs to: its name without counts and numbers of steps at its end."""
    plain = _DECORATION.sub("", job_name or "").strip()
    return _COUNTER.sub("", plain)[:100].strip() or plain[:100] or "evaluation"


async def _decide(session: AsyncSession) -> None:
    for team_id, job_id, name, model_id in (await session.execute(_UNDECIDED)).all():
        patterns = in_full(await session.get(GuardRow, model_id)).eval_jobs
        is_it = names_an_evaluation(patterns, name)
        job = update(JobRow).where(JobRow.team_id == team_id, JobRow.id == job_id, JobRow.is_evaluation.is_(None))
        await session.execute(job.values(is_evaluation=is_it, benchmark=benchmark_of(name) if is_it else None))


async def _score(session: AsyncSession, team_id: UUID, job_id: UUID) -> None:
    locked = select(JobRow).where(JobRow.team_id == team_id, JobRow.id == job_id, JobRow.is_evaluation.is_(True))
    job = await session.scalar(locked.with_for_update(skip_locked=True))
    if job is None:
        return
    looked_at = await session.scalar(select(func.clock_timestamp()))
    asked = {"team_id": team_id, "job_id": job_id, "base": _BASE}
    rewards, failed, unknown, mixed = _sorted((await session.execute(_ROLLOUTS, asked)).all())
    models = [key.model_id for key in rewards]
    for key, values in rewards.items():
        is_mixed = mixed or models.count(key.model_id) > 1
        details = {"failed": failed, "unknown_checkpoint": unknown, "job": job.name}
        await keep_score(session, key, job, values, is_mixed, {name: value for name, value in details.items() if value})
    job.scored_at = looked_at
    if rewards:
        await notify_async(session, GUARD_DUE, "")


def _sorted(rows: Sequence[Any]) -> tuple[dict[ScoredCheckpoint, list[float]], int, int, bool]:
    """Rewards by checkpoint; how many rollouts failed; of how many no checkpoint is on record; whether one was served
    by several, which counts for each of them."""
    rewards, failed, unknown, mixed = dict[ScoredCheckpoint, list[float]](), 0, 0, False
    for model_id, status, reward, checkpoints in rows:
        if status != "completed" or reward is None or not math.isfinite(reward):
            failed += 1
            continue
        unknown += not checkpoints
        mixed |= len(checkpoints or ()) > 1
        for checkpoint_id in checkpoints or ():
            key = ScoredCheckpoint(model_id, checkpoint_id if checkpoint_id != _BASE else None)
            rewards.setdefault(key, []).append(reward)
    return rewards, failed, unknown, mixed


async def keep_score(
    session: AsyncSession,
    key: ScoredCheckpoint,
    job: JobRow,
    rewards: list[float],
    mixed: bool,
    details: dict[str, Any],
) -> None:
    """A job's score of a checkpoint, which the guard looks at again where it changed."""
    n = len(rewards)
    values = {
        "benchmark": job.benchmark or benchmark_of(job.name),
        "score": fmean(rewards),
        "n": n,
        "stderr": pstdev(rewards) / math.sqrt(n) if n > 1 else None,
        "mixed": mixed,
        "details": details,
    }
    row = insert(EvalRow).values(
        id=uuid.uuid4(),
        model_id=key.model_id,
        checkpoint_id=key.checkpoint_id,
        job_id=job.id,
        higher_is_better=True,
        **values,
    )
    changed = or_(EvalRow.score != row.excluded.score, EvalRow.n != row.excluded.n, EvalRow.mixed != row.excluded.mixed)
    await session.execute(
        row.on_conflict_do_update(
            index_elements=["model_id", "job_id", "checkpoint_id"],
            index_where=EvalRow.job_id.is_not(None),
            set_={**values, "guard_checked_at": None},
            where=changed,
        )
    )
