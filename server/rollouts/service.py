"""Rollouts as clients report them: enter and exit in any order, any number of times, and as they read them."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.lines import GrowingLine
from server.audit.recording import actor_of
from server.catalog.repository import as_uuid, find_model
from server.principals.callers import Caller
from server.rollouts.ids import id_or_none
from server.rollouts.types import (
    Deleted,
    Pin,
    Trace,
    TraceEntered,
    TraceExited,
    TraceList,
)
from server.rollouts.visibility import require_job
from server.values.sanitizing import storable_json
from store.database import AsyncConnection, AsyncDatabase
from store.placements.cancelling import cancel_placed_rollouts
from store.rollouts import TraceFacts, TraceFilter, delete_trace, find_trace, list_traces, pin_trace
from store.tables import TraceRow
from wire.errors import NotFound

_SILENT = "nothing was heard of this rollout for too long, so it was closed; an exit that still comes counts"


async def enter(database: AsyncDatabase, caller: Caller, trace_id: UUID, report: TraceEntered) -> None:
    """The rollout began. Raises Forbidden where the key is for some models, and this is of another or of its job."""
    values = _fields(report)
    values["job_id"] = job_id = as_uuid(report.job_id) if report.job_id else None
    if job_id is not None:
        await require_job(database, caller, job_id, reports=True)
    async with database.session() as session:
        found = await find_model(session, caller.team_id, report.model) if report.model else None
        if found:
            caller.require_model(found[0].id, found[0].slug)
        values["model_id"] = found[0].id if found else None
        began = func.clock_timestamp()
        await _upsert(session, caller.team_id, trace_id, report.model_extra, entered_at=began, **values)


async def exit_(session: AsyncSession, team_id: UUID, trace_id: UUID, report: TraceExited) -> None:
    """The rollout ended. One that was closed for its silence, or cancelled, has ended as this says."""
    values = _fields(report)
    await _upsert(session, team_id, trace_id, report.model_extra, exited_at=func.clock_timestamp(), **values)


async def get_trace(database: AsyncDatabase, team_id: UUID, trace_id: UUID) -> Trace:
    """One rollout. Raises NotFound."""
    async with database.connection() as connection:
        return describe(await found_trace(connection, team_id, trace_id))


async def page_of_traces(
    database: AsyncDatabase, team_id: UUID, wanted: TraceFilter, limit: int, cursor: str | None
) -> TraceList:
    """Rollouts, newest first. Raises InvalidRequest for a cursor that is none."""
    async with database.connection() as connection:
        page = await list_traces(connection, team_id, wanted, limit=limit, cursor=cursor)
    return TraceList(items=[describe(trace) for trace in page.traces], next_cursor=page.next_cursor)


async def delete(database: AsyncDatabase, caller: Caller, trace_id: UUID) -> Deleted:
    """Delete a rollout and all that was recorded of it. Raises NotFound."""
    line = GrowingLine(actor_of(caller), "delete_trace", team_id=caller.team_id, subject_id=trace_id)
    async with database.connection() as connection, connection.transaction():
        await cancel_placed_rollouts(connection, caller.team_id, trace_ids=[trace_id])
        if not await delete_trace(connection, caller.team_id, trace_id):
            raise no_such_trace(trace_id)
        await line.write(connection)
    return Deleted(traces_deleted=1)


async def pin(database: AsyncDatabase, team_id: UUID, trace_id: UUID, pinned: bool) -> Pin:
    """Keep a rollout, or leave it to the retention policy again. Raises NotFound."""
    async with database.connection() as connection:
        if not await pin_trace(connection, team_id, trace_id, pinned=pinned):
            raise no_such_trace(trace_id)
    return Pin(pinned=pinned)


async def found_trace(connection: AsyncConnection, team_id: UUID, trace_id: UUID) -> TraceFacts:
    """The team's rollout of that id. Raises NotFound."""
    trace = await find_trace(connection, team_id, trace_id)
    if trace is None:
        raise no_such_trace(trace_id)
    return trace


def no_such_trace(trace_id: UUID) -> NotFound:
    """The refusal of an id that the team has not reported."""
    return NotFound(f"there is no trace {trace_id}")


def describe(trace: TraceFacts) -> Trace:
    """A rollout as clients read it."""
    return Trace(
        id=str(trace.id),
        job_id=id_or_none(trace.job_id),
        group_id=trace.group_id,
        task_slug=trace.task_slug,
        parent_trace_id=trace.parent_trace_id,
        model=trace.model,
        model_id=id_or_none(trace.model_id),
        status=trace.status,
        timed_out=trace.timed_out,
        reward=trace.reward,
        error=trace.error or (_SILENT if trace.timed_out else None),
        stop_reason=trace.stop_reason,
        evaluation_result=_readable_result(trace.evaluation_result),
        created_at=trace.created_at,
        start_time=trace.entered_at or trace.created_at,
        end_time=trace.exited_at,
        pinned=trace.pinned_at is not None,
        num_turns=trace.num_turns or trace.num_samples,
        prompt_tokens=trace.num_prompt_tokens,
        output_tokens=trace.num_output_tokens,
        checkpoint_ids=[str(checkpoint_id) for checkpoint_id in trace.checkpoint_ids],
        flags=trace.flags,
        labels=trace.labels,
        num_comments=trace.num_comments,
    )


def _readable_result(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Clients refuse a result whose score is there and no number."""
    if result is None or _is_finite(result.get("score")):
        return result
    return {name: value for name, value in result.items() if name != "score"}


def _is_finite(score: Any) -> bool:
    return isinstance(score, int | float) and math.isfinite(score)


def _fields(report: TraceEntered | TraceExited) -> dict[str, Any]:
    """What is no extra, as it came: however deeply a result is nested, refusing it is for who stores it."""
    return {name: getattr(report, name) for name in type(report).model_fields}


async def _upsert(
    session: AsyncSession, team_id: UUID, trace_id: UUID, extra: dict[str, Any] | None, **values: Any
) -> None:
    """What a report leaves out stays as it was."""
    said = {name: storable_json(value, name) for name, value in values.items() if value is not None}
    said["last_activity_at"] = func.clock_timestamp()
    if extra:
        said["extra"] = storable_json(extra, "the report")
    row = insert(TraceRow).values(team_id=team_id, id=trace_id, **said)
    if extra:
        said["extra"] = func.coalesce(TraceRow.extra, literal({}, JSONB)).concat(row.excluded.extra)
    if "model_id" in said:  # what the gateway recorded is what sampled
        said["model_id"] = func.coalesce(TraceRow.model_id, row.excluded.model_id)
    if "status" in said:
        said["timed_out_at"] = None
    await session.execute(row.on_conflict_do_update(index_elements=["team_id", "id"], set_=said))
