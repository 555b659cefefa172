"""What people do with a run: pause, resume, cancel, delete. Whoever has its lease is woken and acts on it."""

from __future__ import annotations

from uuid import UUID

from psycopg.errors import UniqueViolation
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.catalog.model_claims import live_run_of, run_in_the_way
from server.catalog.pausing import ModelPaused
from server.principals.callers import Caller
from server.runs.events import add_event
from server.runs.reading import describe, find_run
from server.runs.types import Run, RunDeleted
from store.database import AsyncDatabase
from store.notify import RUN_CHANGED, notify_async
from store.run_states import LIVE
from store.tables import HostedRolloutRow, ModelRow, RunEventRow, RunRow, RunStepRow
from wire.errors import Conflict

_PAUSABLE = ("queued", "running")
_PAUSED = ("pausing", "paused")
_RESUMABLE = ("pausing", "paused", "stopped", "failed")
_GOING = ("queued", "running")


async def pause(session: AsyncSession, caller: Caller, run_id: UUID) -> Run:
    """End after the present step. Raises NotFound, Conflict for a run that has ended."""
    run, model = await find_run(session, caller, run_id, lock=True)
    if run.state in _PAUSABLE:
        run.state = "pausing"
        await _said(session, caller, run, "pause_run")
    elif run.state not in _PAUSED:
        raise Conflict(f"the run is {run.state}, so it cannot be paused")
    return describe(run, model)


async def resume(database: AsyncDatabase, caller: Caller, run_id: UUID) -> Run:
    """Go on after the last step that is in the head's lineage; from `stopped` and `failed` too.

    Raises NotFound, Conflict for a run that has ended otherwise, or whose model another run trains now.
    """
    try:
        async with database.session() as session:
            run, model = await find_run(session, caller, run_id, lock=True)
            if run.state in _RESUMABLE:
                await _resume(session, caller, run, model)
            elif run.state not in _GOING:
                raise Conflict(f"the run is {run.state}, so it cannot be resumed; start another one")
            return describe(run, model)
    except (UniqueViolation, IntegrityError):
        raise Conflict("another run has begun to train the model at this moment; wait for its end") from None


async def _resume(session: AsyncSession, caller: Caller, run: RunRow, model: ModelRow) -> None:
    if run.state not in LIVE:
        if model.removed_at is not None:
            raise Conflict("its model was deleted, so the run cannot go on")
        if model.paused_at is not None:
            raise ModelPaused(f"training of {model.slug!r} is paused: {model.pause_reason}; resume the model first")
        if (other := await live_run_of(session, model.id)) is not None:
            raise run_in_the_way(model.slug, other)
    was, run.state = run.state, "running" if run.state == "pausing" else "queued"
    run.error = run.stop_reason = run.ended_at = None
    await session.flush()
    if was != "pausing":
        await add_event(session, run, "resumed", f"it was {was} after step {run.step}")
    await _said(session, caller, run, "resume_run")


async def cancel(session: AsyncSession, caller: Caller, run_id: UUID) -> Run:
    """End it, and the rollouts and training calls that are under way. Raises NotFound, Conflict for one that has ended
    otherwise."""
    run, model = await find_run(session, caller, run_id, lock=True)
    if run.state in LIVE and run.state != "cancelling":
        run.state = "cancelling"
        await _said(session, caller, run, "cancel_run")
    elif run.state not in ("cancelling", "cancelled"):
        raise Conflict(f"the run is {run.state}, so there is nothing to cancel")
    return describe(run, model)


async def remove(session: AsyncSession, caller: Caller, run_id: UUID) -> RunDeleted:
    """Forget a run that has ended. Its rollouts and checkpoints stay. Raises NotFound, Conflict for one that lives."""
    run, _ = await find_run(session, caller, run_id, lock=True)
    if run.state in LIVE:
        raise Conflict(f"the run is {run.state}; cancel it first, and delete it when it has ended")
    loose = update(HostedRolloutRow).where(HostedRolloutRow.run_id == run.id)
    await session.execute(loose.values(run_id=None, step=None, purpose=None, position=None))
    events = await session.scalar(select(func.count()).where(RunEventRow.run_id == run.id)) or 0
    steps = await session.scalar(select(func.count()).where(RunStepRow.run_id == run.id)) or 0
    record(session, actor_of(caller), "delete_run", team_id=run.team_id, subject_id=run.model_id, run=str(run.id))
    await session.execute(delete(RunRow).where(RunRow.id == run.id))
    return RunDeleted(events_deleted=events, steps_deleted=steps)


async def _said(session: AsyncSession, caller: Caller, run: RunRow, action: str) -> None:
    record(session, actor_of(caller), action, team_id=run.team_id, subject_id=run.model_id, run=str(run.id))
    await session.flush()
    await notify_async(session, RUN_CHANGED, run.id.hex)
