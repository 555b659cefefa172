"""One optimizer step, from the op log to a head that is being served.

AdamW in memory, and a snapshot of what it made; then, without the engine (`trainer.worker.continuations`): files
staged, hashed, renamed; the checkpoint inserted as `staged`; samplers load it while the files are fsynced; one fenced
transaction commits checkpoint, operation and head together.

A step that promotes nothing is AdamW and that transaction, with a checkpoint that has no files (`store.oplog.unsaved`).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.checkpoint_stores.base import ADAPTER, STATE
from store.database import Database
from store.oplog import work
from store.oplog.lost_answers import LEFT_OUT
from store.oplog.operation import ModelState, Operation
from store.oplog.unsaved import commit_unpromoted_step
from store.oplog.work import Lease
from trainer.worker.cancellation import Cancellation
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.promotion import Promotion
from trainer.worker.summaries import logged_figures, summarise_step
from trainer.worker.timing import StageTimer
from wire.adapter_names import adapter_name
from wire.engine import AdamParams, Engine, Snapshot, StepResult
from wire.errors import HeadwayError
from wire.payload import decode, encode
from wire.plans import StepPlan, encode_step_plan
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedStep:
    """A step that the engine has made and that is in no file yet. facts: columns of its node."""

    lease: Lease
    operation: Operation
    model: ModelState
    facts: dict[str, Any]
    plan: StepPlan
    num_left_out: int
    snapshot: Snapshot
    laps: StageTimer


class Stepping:
    """Handlers of steps. When one raises, the weights in the engine are no checkpoint's, and the model has to be
    loaded again."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        checkpoints: CheckpointStore,
        engine: Engine,
        cancellation: Cancellation,
        metrics: TrainerMetrics | None = None,
    ) -> None:
        self._metrics = metrics or TrainerMetrics()
        self._database = database
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._engine = engine
        self._cancellation = cancellation

    def optim_step(
        self,
        lease: Lease,
        operation: Operation,
        model: ModelState,
        summaries: list[dict[str, Any]],
        num_left_out: int = 0,
    ) -> AppliedStep:
        """Apply the gradients that the engine holds, which left these summaries; what is to be promoted then.
        `num_left_out`: passes that it does not hold, for nobody had their answer. Raises NonFinite."""
        facts, plan, _ = self._apply(operation, model, summaries, num_left_out)
        laps = StageTimer(self._metrics.phase)
        with laps("save"):
            snapshot = self._engine.snapshot(model.id)
        return AppliedStep(lease, operation, model, facts, plan, num_left_out, snapshot, laps)

    def promote(self, step: AppliedStep, promotion: Promotion) -> UUID:
        """Write the files, have them loaded, and move the head there; the new node. From any thread: the engine is not
        used.

        Raises Superseded, PromotionRejected, Unavailable where no sampler loaded the checkpoint in time, LeaseLost,
        Interrupted.
        """
        checkpoint_id = self._stage(step)
        self._promote(step, checkpoint_id, promotion)
        return checkpoint_id

    def promoted(self, step: AppliedStep, checkpoint_id: UUID) -> None:
        """Count it."""
        self._done(step.model, checkpoint_id, step.facts, step.laps)

    def unpromoted_step(
        self,
        lease: Lease,
        operation: Operation,
        model: ModelState,
        summaries: list[dict[str, Any]],
        num_left_out: int = 0,
    ) -> UUID:
        """As `optim_step`, without files and samplers; the node that it made. Raises Superseded, LeaseLost."""
        facts, plan, stepped = self._apply(operation, model, summaries, num_left_out)
        laps, checkpoint_id = StageTimer(self._metrics.phase), uuid.uuid4()
        answer = {
            "step": model.head_step + 1,
            "checkpoint_id": str(checkpoint_id),
            "metrics": {"num_gradients": float(len(summaries)), **stepped.metrics},
        }
        with laps("commit"), self._database.connection() as connection:
            values, result = {"id": checkpoint_id, **facts}, encode(answer)
            commit_unpromoted_step(connection, lease, operation, model, values, result, encode_step_plan(plan))
        self._done(model, checkpoint_id, facts, laps)
        return checkpoint_id

    def nothing_to_step(self, lease: Lease, operation: Operation) -> None:
        """End an unpromoted step that found no gradient: nothing changes, and its metrics say so."""
        result = encode({"metrics": {"num_gradients": 0.0}})
        with self._database.connection() as connection:
            work.complete(connection, lease, operation, {"result": result})

    def _apply(
        self, operation: Operation, model: ModelState, summaries: list[dict[str, Any]], num_left_out: int
    ) -> tuple[dict[str, Any], StepPlan, StepResult]:
        header, _ = decode(work.read_payload(operation, self._blobs))
        adam = AdamParams(**header)
        fault_point("step:before-adamw")
        plan = self._engine.plan_step()
        with self._metrics.phase("adamw"):
            stepped = self._engine.optim_step(model.id, adam, plan)
        fault_point("step:after-adamw")
        facts = summarise_step(summaries, stepped, adam)
        if model.head_is_thinned:
            facts["metrics"]["fresh_moments"] = 1.0
        if num_left_out:
            facts["metrics"][LEFT_OUT] = float(num_left_out)
        return facts, plan, stepped

    def _done(self, model: ModelState, checkpoint_id: UUID, facts: dict[str, Any], laps: StageTimer) -> None:
        self._metrics.stepped(model, facts["metrics"])
        log.info("step_done", checkpoint=str(checkpoint_id), **logged_figures(facts["metrics"]), **laps.figures())

    def _stage(self, step: AppliedStep) -> UUID:
        checkpoint_id, model, laps = uuid.uuid4(), step.model, step.laps
        with self._checkpoints.stage(model.id, checkpoint_id) as staged:
            with laps("save"):
                step.snapshot.write(staged / ADAPTER, staged / STATE)
            fault_point("step:after-save")
            with laps("publish"):
                manifest = self._checkpoints.publish(model.id, checkpoint_id, staged)
        values = {"id": checkpoint_id, "manifest": manifest.to_json(), **step.facts}
        with self._database.connection() as connection:
            work.stage_checkpoint(connection, step.lease, step.operation, model, values)
        return checkpoint_id

    def _promote(self, step: AppliedStep, checkpoint_id: UUID, promotion: Promotion) -> None:
        lease, operation, model, laps = step.lease, step.operation, step.model, step.laps
        answer: dict[str, Any] = {
            "step": model.head_step + 1,
            "checkpoint_id": str(checkpoint_id),
            "sampler_path": self._checkpoints.describe(model.id, checkpoint_id, ADAPTER),
            "state_path": self._checkpoints.describe(model.id, checkpoint_id, STATE),
        }
        if step.num_left_out:
            answer[LEFT_OUT] = step.num_left_out
        check = self._cancellation.check_of(lease, operation)
        try:
            with laps("settle"):
                self._checkpoints.settle(model.id, checkpoint_id)
            with laps("promote"):
                promotion.wait_until_loaded(model.base_id, adapter_name(checkpoint_id), check)
            with laps("commit"), self._database.connection() as connection:
                result, plan = encode(answer), encode_step_plan(step.plan)
                work.commit_step(connection, lease, operation, model, checkpoint_id, result, plan)
        except (HeadwayError, OSError):
            with self._database.connection() as connection:
                work.reject_checkpoint(connection, checkpoint_id)
            raise
