"""Passes over datums, from the op log to the engine and back: forward, forward_backward, backward, and replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import structlog

from store.blob_stores import BlobStore
from store.database import Database
from store.operation_kinds import BACKWARD, FORWARD_BACKWARD, GRADIENTS, HANDLE_GIVERS
from store.oplog import work
from store.oplog.operation import ModelState, Operation
from store.oplog.work import Lease
from store.tables import OperationRow
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.logprob_keeper import LogprobKeeper
from trainer.worker.summaries import logged_figures, summarise_pass
from wire.datum_payload import decode_datums
from wire.datums import Datum, num_trajectories
from wire.engine import DatumTensors, Engine, LossChoice, PassResult, Pictures
from wire.errors import CorruptCheckpoint, Gone, NotFound
from wire.payload import decode, encode
from wire.plans import Plan, PlanSettings, decode_plan, encode_plan
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Done:
    """A gradient pass that the engine has carried out."""

    result: PassResult
    datums: Sequence[Datum]
    plan: Plan
    loss_fn: str
    caller_metrics: Mapping[str, float]
    returns_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class EndedPass:
    """One that the engine has carried out, and that the log does not know yet. write_down: from any thread; raises
    Superseded, LeaseLost, OSError where the disk refuses. keep: afterwards, in the engine's thread."""

    write_down: Callable[[], None]
    keep: Callable[[], None] = lambda: None


class Passes:
    """Handlers of the operations that do not move the weights. A refusal leaves the engine as it was."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        metrics: TrainerMetrics | None = None,
        keeper: LogprobKeeper | None = None,
    ) -> None:
        self._metrics = metrics or TrainerMetrics()
        self._keeper = keeper or LogprobKeeper(database, self._metrics)
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._accumulated: dict[UUID, list[UUID]] = {}
        self._gradient_passes: dict[str, Callable[[Operation], _Done]] = {
            FORWARD_BACKWARD.name: self._built_in_loss,
            BACKWARD.name: self._callers_loss,
        }
        assert self._gradient_passes.keys() == set(GRADIENTS), "each kind that is a gradient can be replayed"

    def accumulated(self, model_id: UUID) -> list[UUID]:
        """The operations whose gradients the engine holds for a model, in order."""
        return self._accumulated.get(model_id, [])

    def forget(self, model_id: UUID) -> None:
        """The engine holds no gradient of this model any more."""
        self._accumulated.pop(model_id, None)

    def forward(self, lease: Lease, operation: Operation, model: ModelState) -> EndedPass:
        """Logprobs of the current policy; where the caller asks for them as those of a loss, with what it costs."""
        datums, call = decode_datums(work.read_payload(operation, self._blobs))
        if call.get("returns_logprobs"):
            return EndedPass(partial(self._complete, lease, operation, self._evaluated(operation, datums, call)))
        plan, pictures = self._engine.plan(datums), self._pictures(datums)
        with self._metrics.phase("score"):
            scored = self._engine.forward(model.id, datums, plan, pictures)
        logprobs = [one.logprobs[one.mask > 0] for one in scored]
        return EndedPass(
            partial(self._complete_forward, lease, operation, scored, plan),
            partial(self._keeper.keep, operation, model, datums, logprobs),
        )

    def forward_backward(self, lease: Lease, operation: Operation, model: ModelState) -> EndedPass:
        """The gradient of a built-in loss."""
        done = self._run(operation)
        return EndedPass(
            partial(self._complete, lease, operation, done),
            partial(self._keeper.keep, operation, model, done.datums, done.result.logprobs),
        )

    def backward(self, lease: Lease, operation: Operation, model: ModelState) -> EndedPass:
        """The gradient of the caller's own loss. Raises Gone for a handle that is used or of other weights."""
        forward = self._forward_of(operation)
        if forward.head_version != model.head_version:
            raise Gone("the weights moved since this forward; call forward again and weigh its new logprobs")
        if forward.consumed_by_id is not None:
            raise Gone("this forward_id was used by an earlier backward; call forward again")
        return EndedPass(partial(self._complete, lease, operation, self._run(operation)))

    def replay(self, model: ModelState) -> None:
        """Accumulate again what was acknowledged and no step has consumed; the engine holds the head, no gradient."""
        with self._database.connection() as connection:
            pending = work.pending_gradients(connection, model.id)
        for operation in pending:
            log.info("replaying", model=model.slug, operation=str(operation.id), kind=operation.kind)
            self.compute_again(operation)

    def compute_again(self, gradient: Operation) -> None:
        """Accumulate a gradient that was carried out before, by its plan."""
        fault_point("replay:before-pass")
        self._run(gradient)
        fault_point("replay:after-pass")

    def _run(self, operation: Operation) -> _Done:
        done = self._gradient_passes[operation.kind](operation)
        self._metrics.passed(done.result.metrics)
        self._accumulated.setdefault(operation.model_id, []).append(operation.id)
        return done

    def _evaluated(self, operation: Operation, datums: Sequence[Datum], call: Mapping[str, Any]) -> _Done:
        loss, plan, pictures = _loss_of(call), self._engine.plan(datums), self._pictures(datums)
        with self._metrics.phase("score"):
            result = self._engine.evaluate(operation.model_id, datums, loss, plan, pictures)
        return _Done(result, datums, plan, loss.name, {}, returns_logprobs=True)

    def _built_in_loss(self, operation: Operation) -> _Done:
        datums, call = decode_datums(work.read_payload(operation, self._blobs))
        loss, pictures = _loss_of(call), self._pictures(datums)
        with self._metrics.phase("pass"):
            plan = self._plan(operation.plan, operation, datums, loss.num_substeps)
            result = self._engine.forward_backward(operation.model_id, datums, loss, plan, pictures)
        returns_logprobs = bool(call.get("returns_logprobs"))
        return _Done(result, datums, plan, loss.name, call.get("metrics", {}), returns_logprobs)

    def _callers_loss(self, operation: Operation) -> _Done:
        header, arrays = decode(work.read_payload(operation, self._blobs))
        forward = self._forward_of(operation)
        datums, _ = decode_datums(work.read_payload(forward, self._blobs))
        weights, pictures = np.split(arrays["weights"], np.cumsum(header["lengths"])[:-1]), self._pictures(datums)
        with self._metrics.phase("pass"):
            # The caller weighed what the forward saw: by its plan the logprobs are the same to the bit.
            plan = self._plan(operation.plan or forward.plan, operation, datums)
            result = self._engine.backward(operation.model_id, datums, weights, plan, pictures)
        return _Done(result, datums, plan, "custom", header["metrics"])

    def _pictures(self, datums: Sequence[Datum]) -> Pictures:
        """Of all their media, each once. Raises CorruptCheckpoint for one that is missing or was swapped."""
        digests = {item.digest for datum in datums for item in datum.model_input.media}
        return {digest: self._picture(digest.hex()) for digest in sorted(digests)}

    def _picture(self, name: str) -> bytes:
        try:
            return self._blobs.get(name)
        except CorruptCheckpoint as error:
            raise CorruptCheckpoint(f"a picture of this batch cannot be read: {error.message}") from error

    def _plan(
        self, recorded: bytes | None, operation: Operation, datums: Sequence[Datum], num_substeps: int = 1
    ) -> Plan:
        """The recorded one. Without: for what an earlier version carried out, one by the settings in its metrics; for
        what is carried out now, one by those of this trainer."""
        if recorded is not None:
            return decode_plan(recorded)
        return self._engine.plan(datums, num_substeps, _settings_of(operation.metrics or {}))

    def _forward_of(self, operation: Operation) -> OperationRow:
        with self._database.session() as session:
            forward = session.get(OperationRow, operation.forward_id)
        if forward is None or forward.model_id != operation.model_id or forward.kind not in HANDLE_GIVERS:
            raise NotFound("there is no such forward_id for this model; call forward first")
        return forward

    def _complete_forward(self, lease: Lease, operation: Operation, scored: list[DatumTensors], plan: Plan) -> None:
        placed = work.place_result(self._blobs, _encode_tensors(scored))
        with self._database.connection() as connection:
            work.complete(connection, lease, operation, placed, plan=encode_plan(plan))

    def _complete(self, lease: Lease, operation: Operation, done: _Done) -> None:
        metrics = {**done.result.metrics, **done.caller_metrics}
        answer = {"metrics": metrics, "num_datums": done.result.num_datums}
        placed = work.place_result(self._blobs, _encode_answer(answer, done))
        summary = summarise_pass(done.result, metrics, num_trajectories(done.datums), done.loss_fn)
        with self._database.connection() as connection:
            work.complete(connection, lease, operation, placed, summary, encode_plan(done.plan))
        log.info("pass_done", operation=str(operation.id), loss_fn=done.loss_fn, **logged_figures(metrics))


def _loss_of(call: Mapping[str, Any]) -> LossChoice:
    return LossChoice(call["loss_fn"], call["loss_fn_config"] or {}, call["num_substeps"])


def _encode_answer(answer: dict[str, Any], done: _Done) -> bytes:
    if not done.returns_logprobs:
        return encode(answer)
    rows = done.result.logprobs
    assert rows is not None, "this engine returns no logprobs"
    shapes = [list(row.shape) for row in rows]
    return encode({**answer, "shapes": shapes}, {"logprobs": np.concatenate([row.ravel() for row in rows])})


def _settings_of(metrics: Mapping[str, float]) -> PlanSettings | None:
    max_tokens, threads = int(metrics.get("max_tokens_per_pass", 0)), int(metrics.get("threads", 0))
    return PlanSettings(max_tokens, threads) if max_tokens > 0 and threads > 0 else None


def _encode_tensors(datums: list[DatumTensors]) -> bytes:
    header = {"traj_idx": [d.trajectory_index for d in datums], "lengths": [len(d.logprobs) for d in datums]}
    arrays: dict[str, Any] = {
        "rewards": np.array([np.nan if d.reward is None else d.reward for d in datums], np.float64),
        "logprobs": np.concatenate([d.logprobs for d in datums]),
        "sampling_logprobs": np.concatenate([d.sampling_logprobs for d in datums]),
        "mask": np.concatenate([d.mask for d in datums]),
    }
    return encode(header, arrays)
