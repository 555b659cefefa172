"""Begins steps and evaluations, and puts a run back on the head's lineage."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.creating import new_held_out_job
from server.runs.events import add_event
from server.runs.loop.curriculum import choose_tasks
from server.runs.loop.failures import RunFailed
from server.runs.loop.services import LeasedRun
from server.runs.schedule import held_out_job
from store.operation_kinds import CONSUMERS, GRADIENTS
from store.tables import CheckpointRow, ModelRow, OperationRow, RunRow, RunStepRow
from store.tree import move_head

OVER = ("done", "dropped")

_NEWEST_STEP = text("""
    with recursive path as (
        select id, parent_id from checkpoints where id = :head
        union all
        select c.id, c.parent_id from checkpoints c join path p on c.id = p.parent_id
    )
    select s.step from path p join run_steps s on s.checkpoint_id = p.id
    where s.run_id = :run_id and s.kind = 'train' and s.phase = 'done'
    order by s.step desc limit 1
""")


async def begin(leased: LeasedRun) -> None:
    """Take up a run that was queued: begin with it, or go on after the newest of its steps that is in the head's
    lineage. Gradients that nobody has applied are dropped, for the run's first step would apply them."""
    async with leased.lease.writing() as (session, run):
        if run.state != "queued":
            return
        model = await session.get_one(ModelRow, run.model_id, with_for_update=True)
        run.state = "running"
        if run.started_at is None:
            await _begin_first(session, run, model)
        else:
            await _rejoin(session, run, model)
        if await discard_gradients(session, model):
            await add_event(session, run, "warning", "gradients that no step had applied were dropped")
        run.checkpoint_id = model.head_checkpoint_id


async def _begin_first(session: AsyncSession, run: RunRow, model: ModelRow) -> None:
    if run.config["kl_coef"] and model.head_checkpoint_id is not None:
        raise RunFailed("the model was trained since the run was made, and kl_coef is about its base weights")
    run.started_at = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    run.start_checkpoint_id = model.head_checkpoint_id
    await add_event(session, run, "started", f"from {await _named(session, model.head_checkpoint_id)}")


async def _rejoin(session: AsyncSession, run: RunRow, model: ModelRow) -> None:
    """Steps that the head does not descend from are dropped. What was begun before a pause goes on, where the head is
    still the same."""
    step = await session.scalar(_NEWEST_STEP, {"head": model.head_checkpoint_id, "run_id": run.id})
    if step is None and model.head_checkpoint_id == run.start_checkpoint_id:
        step = 0
    if step == run.step:
        return
    if step is not None and step < run.step:
        head = await _named(session, model.head_checkpoint_id)
        await add_event(session, run, "warning", f"the head is {head}: it goes on after step {step}, not {run.step}")
        run.step = step
    mine = RunStepRow.run_id == run.id
    unfinished = or_(RunStepRow.phase.not_in(OVER), RunStepRow.step > run.step)
    await session.execute(delete(RunStepRow).where(mine, unfinished))


async def open_step(leased: LeasedRun, step: int) -> None:
    """Choose the tasks of a step, whose rollouts begin then."""
    async with leased.lease.writing() as (session, run):
        if run.state != "running":
            return
        model = await session.get_one(ModelRow, run.model_id)
        tasks = await choose_tasks(session, model, leased.config, leased.tasks, step)
        row = await _add_row(session, run, step, "train", {"tasks": tasks}, model.head_checkpoint_id)
        if leased.config.method == "supervised":  # examples have no rollouts
            row.rolled_out_at = await session.scalar(select(func.clock_timestamp()))


async def open_evaluation(leased: LeasedRun, step: int) -> None:
    """All tasks of the held-out set, in a job of their own, that is scored and never trained on."""
    assert leased.held_out is not None
    async with leased.lease.writing() as (session, run):
        model = await session.get_one(ModelRow, run.model_id)
        tasks = [{"task": index, "why": "held out"} for index in range(len(leased.held_out_tasks))]
        row = await _add_row(session, run, step, "held_out", {"tasks": tasks}, model.head_checkpoint_id)
        job_id = held_out_job(run.id, row.generation, step)
        session.add(new_held_out_job(run, job_id, step, leased.held_out.benchmark))
        run.held_out_job_id = job_id


async def _add_row(
    session: AsyncSession, run: RunRow, step: int, kind: str, chosen: dict[str, object], head: UUID | None
) -> RunStepRow:
    """In the place of one that was dropped, if there was. The number of the run's next event tells the two apart, for
    whatever drops one says so in an event."""
    same = RunStepRow.run_id == run.id, RunStepRow.step == step, RunStepRow.kind == kind
    await session.execute(delete(RunStepRow).where(*same, RunStepRow.phase == "dropped"))
    row = RunStepRow(
        run_id=run.id,
        step=step,
        kind=kind,
        generation=run.next_event,
        phase="rolling_out",
        chosen=chosen,
        policy_checkpoint_id=head,
    )
    session.add(row)
    await session.flush()
    return row


async def discard_gradients(session: AsyncSession, model: ModelRow) -> bool:
    """Drop what no step has applied, and the steps that wait. Whether there was anything."""
    is_open = OperationRow.state.in_(("held", "queued", "running"))
    pending = (OperationRow.state == "done") & OperationRow.consumed_by_id.is_(None)
    gradients = OperationRow.kind.in_(GRADIENTS) & or_(is_open, pending)
    steps = OperationRow.kind.in_(CONSUMERS) & is_open
    query = select(OperationRow.id).where(OperationRow.model_id == model.id, or_(gradients, steps)).limit(1)
    if await session.scalar(query) is None:
        return False
    await move_head(session, model.id, model.head_checkpoint_id)
    return True


async def _named(session: AsyncSession, checkpoint_id: UUID | None) -> str:
    row = await session.get(CheckpointRow, checkpoint_id) if checkpoint_id else None
    return row.name if row is not None else "the base weights"
