"""Trains a step: its gradients, its optimizer step, and what came of them. Each call has a key of its own, so that a
process that takes the run over asks for the same operations and gets their answers."""

from __future__ import annotations

import math
import time
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.runs.events import add_event
from server.runs.loop.failures import BATCH_LOST, BatchDropped, RunFailed, patiently
from server.runs.loop.gradients import GRADIENTS, GradientCall, request_digest
from server.runs.loop.opening import OVER
from server.runs.loop.pins import is_kept, pin
from server.runs.loop.services import LeasedRun
from server.runs.schedule import learning_rate
from server.training.admission import trainable_model
from server.training.operations import Call, submit
from server.training.service import optim_step
from store.oplog.results import Result
from store.tables import CheckpointRow, ModelRow, RunRow, RunStepRow
from wire.engine import AdamParams
from wire.errors import HeadwayError


async def begin_training(leased: LeasedRun, row: RunStepRow) -> bool:
    """Whether the step may be trained: the head is where the run left it. Otherwise what was rolled out is dropped, and
    the run goes on from the head as it is."""
    async with leased.lease.writing() as (session, run):
        model = await session.get_one(ModelRow, run.model_id, with_for_update=True)
        if model.head_checkpoint_id != run.checkpoint_id:
            node = await session.get(CheckpointRow, model.head_checkpoint_id) if model.head_checkpoint_id else None
            head = node.name if node is not None else "the base weights"
            said = (
                f"the head was moved to {head}: the rollouts of step {row.step} are dropped, and it goes on from there"
            )
            await drop_unfinished(session, run, said)
            run.checkpoint_id = model.head_checkpoint_id
            return False
        kept = await _row(session, row)
        if kept is None:
            return False
        kept.phase = "training"
    return True


async def train(leased: LeasedRun, row: RunStepRow) -> None:
    """Carry the step's training calls out, and write down what came of them.

    Raises BatchDropped when the head moved meanwhile, RunFailed when a call failed for a reason that stays.
    """
    started = time.monotonic()
    try:
        results = [await _call(leased, row, gradient) for gradient in GRADIENTS[leased.config.method](leased, row)]
        await _promoting(leased, row)
        header, _ = await _step(leased, row)
    except BATCH_LOST as error:
        raise BatchDropped(error.message) from error
    except HeadwayError as error:
        raise RunFailed(f"the training of step {row.step} failed: {error.message}") from error
    figures = _figures([header["metrics"] for header, _ in results])
    await _finish(leased, row, UUID(header["checkpoint_id"]), {**figures, "training_s": time.monotonic() - started})


async def drop_unfinished(session: AsyncSession, run: RunRow, why: str | None = None) -> bool:
    """Have every step that is not done begin anew; whether there was one. `why`: an event, where the caller adds none
    (an event gives the step another generation)."""
    query = select(RunStepRow).where(RunStepRow.run_id == run.id, RunStepRow.phase.not_in(OVER))
    rows = (await session.scalars(query)).all()
    for row in rows:
        row.phase = "dropped"
    if rows and why is not None:
        await add_event(session, run, "warning", why)
    return bool(rows)


async def _call(leased: LeasedRun, row: RunStepRow, gradient: GradientCall) -> Result:
    async def once() -> Result:
        key = _key(leased, row, gradient.label)
        model = await trainable_model(leased.services.training, leased.caller, str(leased.model_id), key)
        return await _answered(leased, row, gradient.label, model, gradient.make(model))

    return await patiently(leased.lease, once)


async def _step(leased: LeasedRun, row: RunStepRow) -> Result:
    adam = AdamParams(learning_rate(leased.config, row.step), weight_decay=leased.config.weight_decay)
    digest = request_digest([adam.learning_rate, adam.weight_decay])

    async def once() -> Result:
        key = _key(leased, row, "step")
        training = leased.services.training
        model = await trainable_model(training, leased.caller, str(leased.model_id), key, keeps=True)
        return await _answered(leased, row, "step", model, optim_step(adam, digest))

    return await patiently(leased.lease, once)


async def _answered(leased: LeasedRun, row: RunStepRow, label: str, model: Any, call: Call) -> Result:
    async with submit(leased.services.training, model, call) as operation:
        async with leased.lease.writing() as (session, _):
            kept = await _row(session, row)
            if kept is not None and kept.operation_ids.get(label) != str(operation.id):
                kept.operation_ids = {**kept.operation_ids, label: str(operation.id)}
        return await operation.result()


async def _promoting(leased: LeasedRun, row: RunStepRow) -> None:
    async with leased.lease.writing() as (session, _):
        kept = await _row(session, row)
        if kept is not None:
            kept.phase = "promoting"


async def _finish(leased: LeasedRun, row: RunStepRow, checkpoint_id: UUID, figures: dict[str, Any]) -> None:
    async with leased.lease.writing() as (session, run):
        kept = await _row(session, row)
        if kept is None:
            return
        kept.phase, kept.checkpoint_id = "done", checkpoint_id
        known = {name: value for name, value in figures.items() if value is not None}
        metrics = {**(kept.metrics or {}), **known, "learning_rate": learning_rate(leased.config, row.step)}
        kept.metrics = metrics
        kept.ended_at = await _now(session)
        run.step, run.checkpoint_id, run.reward = row.step, checkpoint_id, metrics.get("reward")
        if is_kept(leased.config, row.step):
            await pin(session, checkpoint_id)
        node = await session.get_one(CheckpointRow, checkpoint_id)
        reward = "" if run.reward is None else f": reward {run.reward:.4f}"
        said = f"step {row.step} of {leased.config.steps}{reward}, now {node.name}"
        data = {"step": row.step, "checkpoint_id": str(checkpoint_id), **metrics}
        await add_event(session, run, "step", said, data)


def _figures(passes: list[dict[str, float]]) -> dict[str, Any]:
    """Of all gradient calls of a step: sums are added, the greatest lag and the mean of means are taken."""

    def of(name: str) -> list[float]:
        return [value for found in passes if (value := found.get(name)) is not None and math.isfinite(value)]

    def mean(name: str) -> float | None:
        return sum(values) / len(values) if (values := of(name)) else None

    return {
        "loss": sum(values) if (values := of("loss:sum")) else None,
        "kl": mean("kl_sampling_trainer:mean"),
        "kl_base": mean("kl_base:mean"),
        "policy_lag_mean": mean("staleness:mean"),
        "policy_lag_max": max(values) if (values := of("staleness:max")) else None,
    }


def _key(leased: LeasedRun, row: RunStepRow, label: str) -> str:
    return f"run:{leased.id.hex}:{row.step}.{row.generation}:{label}"


async def _row(session: AsyncSession, row: RunStepRow) -> RunStepRow | None:
    """The step's row, unless it was dropped meanwhile."""
    query = select(RunStepRow).where(
        RunStepRow.run_id == row.run_id,
        RunStepRow.step == row.step,
        RunStepRow.kind == row.kind,
        RunStepRow.generation == row.generation,
        RunStepRow.phase != "dropped",
    )
    return await session.scalar(query)


async def _now(session: AsyncSession) -> Any:
    return (await session.execute(select(func.clock_timestamp()))).scalar_one()
