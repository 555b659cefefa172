"""For routes with `{trace_id}` or `{job_id}` in their path: 403 where a key is narrowed to other models."""

from __future__ import annotations

from uuid import UUID

from fastapi import Depends

from server.hosted_rollouts.reports import require_reporter
from server.http.authentication import AnyCallerDep, TraceReporterDep
from server.http.context import ContextDep
from server.rollouts.visibility import require_job, require_trace


async def _seen_trace(context: ContextDep, caller: AnyCallerDep, trace_id: UUID) -> None:
    await require_trace(context.database, caller, trace_id)


async def _reported_trace(context: ContextDep, caller: TraceReporterDep, trace_id: UUID) -> None:
    await require_trace(context.database, caller, trace_id, reports=True)
    await require_reporter(context.database, caller, trace_id)


async def _seen_job(context: ContextDep, caller: AnyCallerDep, job_id: UUID) -> None:
    await require_job(context.database, caller, job_id)


async def _reported_job(context: ContextDep, caller: AnyCallerDep, job_id: UUID) -> None:
    await require_job(context.database, caller, job_id, reports=True)


SeenTrace, ReportedTrace = Depends(_seen_trace), Depends(_reported_trace)
SeenJob, ReportedJob = Depends(_seen_job), Depends(_reported_job)
