"""How a run ends, or pauses: what it leaves behind is said, and its model is free again."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from sqlalchemy import func, select

from server.audit.recording import Actor
from server.catalog.heads import roll_to
from server.hosted_rollouts.cancelling import cancel_rollouts
from server.runs.events import add_event
from server.runs.loop.failures import patiently
from server.runs.loop.opening import OVER, discard_gradients
from server.runs.loop.pins import pin
from server.runs.loop.services import LeasedRun
from server.runs.loop.training import drop_unfinished
from server.runs.places import places_of
from store.tables import CheckpointRow, ModelRow, RunStepRow

RUN = Actor(name="run")
_DROPPED = "; what was under way is dropped"


async def finish(leased: LeasedRun, state: Literal["completed", "stopped"], reason: str | None) -> None:
    """Promote what the run's settings say, and end it."""
    await _cancel_rollouts(leased)
    promoted = await _promote(leased)
    async with leased.lease.writing() as (session, run):
        model = await session.get_one(ModelRow, run.model_id)
        dropped = _DROPPED if await drop_unfinished(session, run) else ""
        run.checkpoint_id = model.head_checkpoint_id
        run.state, run.stop_reason, run.waiting_for = state, reason, None
        run.ended_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        await pin(session, run.checkpoint_id)
        said = reason if reason is not None else f"all {run.step} steps are done"
        await add_event(session, run, state, f"{said}{promoted}{dropped}", {"step": run.step})


async def pause(leased: LeasedRun) -> None:
    """After a step."""
    async with leased.lease.writing() as (session, run):
        if run.state == "pausing":
            run.state, run.waiting_for = "paused", None
            await add_event(session, run, "paused", f"after step {run.step}")


async def fail(leased: LeasedRun, sentence: str) -> None:
    """What was under way is dropped; the steps that are done stay."""
    await _abandon(leased, "failed", sentence)


async def cancel(leased: LeasedRun) -> None:
    """As `fail`, because somebody asked for it."""
    await _abandon(leased, "cancelled", None)


async def _abandon(leased: LeasedRun, state: Literal["failed", "cancelled"], sentence: str | None) -> None:
    await _cancel_rollouts(leased)
    async with leased.lease.writing() as (session, run):
        model = await session.get_one(ModelRow, run.model_id, with_for_update=True)
        if run.started_at is not None:
            await discard_gradients(session, model)
        dropped = _DROPPED if await drop_unfinished(session, run) else ""
        run.state, run.error, run.waiting_for = state, sentence, None
        run.checkpoint_id = model.head_checkpoint_id
        run.ended_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        said = sentence or (f"after step {run.step}" if run.step else "before its first step was done")
        await add_event(session, run, state, f"{said}{dropped}", {"step": run.step})


async def _cancel_rollouts(leased: LeasedRun) -> None:
    """Of steps that are not done: nobody waits for them any more."""
    async with leased.lease.reading() as (session, run):
        query = select(RunStepRow).where(RunStepRow.run_id == run.id, RunStepRow.phase.not_in(OVER))
        rows = (await session.scalars(query)).all()
        team_id = run.team_id
    trace_ids: list[UUID] = [
        place.trace_id
        for row in rows
        if row.rolled_out_at is None
        for place in places_of(row, leased.group_size(row), leased.config.seed, leased.tasks_of(row))
    ]
    if trace_ids:
        await cancel_rollouts(leased.lease.database, team_id, trace_ids)


async def _promote(leased: LeasedRun) -> str:
    """Move the head to the best held-out checkpoint, where that is asked for; what to add to the run's last event."""
    if leased.held_out is None or leased.stop.promote != "best":
        return ""
    async with leased.lease.reading() as (session, run):
        model = await session.get_one(ModelRow, run.model_id)
        best, score = run.best_checkpoint_id, run.best_held_out_score
        if score is None or model.head_checkpoint_id == best:
            return ""
        node = await session.get(CheckpointRow, best) if best is not None else None
        name = node.name if node is not None else "the base weights"
    reason = f"run {leased.id}: the best held-out score, {score:.4f}"
    reference = str(best) if best is not None else None
    await patiently(leased.lease, lambda: roll_to(leased.services.heads, model, reference, RUN, reason))
    return f"; the head was set to {name}, whose held-out score of {score:.4f} is the best"
