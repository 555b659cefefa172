"""The trainer's loop: lease a model, bring it to its head, carry out its operations in order.

Uses the op log, the checkpoint store, and the engine through its port; imports no torch. What
survives a crash is in the log: whoever takes the lease next loads the head and replays the gradients that no step
has consumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog

from store.blob_stores import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.database import DATABASE_AWAY, Connection, Database
from store.notify import ADAPTER_LOADED, OPERATION_QUEUED, Listener, WakeableListener
from store.operation_kinds import BACKWARD, FORWARD, FORWARD_BACKWARD, KINDS, OPTIM_STEP, SAVE, UNPROMOTED_STEP
from store.oplog import leases, work
from store.oplog.deferring import defer, is_end
from store.oplog.operation import ModelState, Operation
from store.oplog.scheduling import next_model
from store.oplog.work import Lease
from store.planes.promotion_policy import PromotionPolicy
from trainer.worker.cancellation import Cancellation, Cancelled
from trainer.worker.continuations import Continuation, Continuations, Ended
from trainer.worker.files import NodeFiles
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.loading import Loading
from trainer.worker.logprob_keeper import LogprobKeeper
from trainer.worker.open_models import OpenModels
from trainer.worker.passes import EndedPass, Passes
from trainer.worker.promotion import Promotion
from trainer.worker.saving import Saving
from trainer.worker.snapshots import SnapshotPolicy, Snapshots
from trainer.worker.stepping import AppliedStep, Stepping
from trainer.worker.troubles import Diagnosis, trouble_behind
from wire.engine import Engine
from wire.errors import (
    A_FEW,
    DeviceLost,
    HeadwayError,
    Interrupted,
    LeaseLost,
    NothingAccumulated,
    Superseded,
    TrainerLost,
)
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)

_POLL_S = 2.0
_HANGS_AFTER_S = 60.0
_LAST_CONTINUATIONS_S = 10.0
_LOST_RACE_S = 0.02
_SKIP_EVERY_S = 1.0
_AWAY_PAUSE_S, _MAX_AWAY_PAUSE_S = 1.0, 30.0
_NOTHING_ACCUMULATED = (
    "there are no accumulated gradients; call forward-backward first (a repeated optim_step returns the last step only "
    "with the same body, within 15 minutes, and while nothing else has moved the head)"
)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Which base this trainer serves, as whom, whom a promotion waits for, and for how long.

    idle_lease_s: a model without work for so long is given up, with what it holds in memory.
    """

    base_id: UUID
    trainer_id: UUID
    promote_timeout_s: float = 60.0
    promotion: PromotionPolicy = PromotionPolicy.ONE
    lease_ttl_s: float = leases.LEASE_TTL_S
    idle_lease_s: float = 600.0
    snapshots: SnapshotPolicy = field(default_factory=SnapshotPolicy)


class Stop(Protocol):
    """When a worker ends (`trainer.worker.stopping`)."""

    def is_set(self) -> bool: ...

    def nap(self, wait: Callable[[], object]) -> None:
        """Wait, and wake up early when it is time to end."""
        ...


class Worker:
    """Works off the operations of one base's models with one engine."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        checkpoints: CheckpointStore,
        engine: Engine,
        settings: WorkerSettings,
        cancellation: Cancellation | None = None,
        metrics: TrainerMetrics | None = None,
        keeper: LogprobKeeper | None = None,
        diagnose: Diagnosis = lambda error: None,
    ) -> None:
        """`cancellation` ends what can be ended half way: the engine asks it before each micro-batch. `diagnose` knows
        the errors of the engine's device."""
        self._database = database
        self._engine = engine
        self._settings = settings
        self._outlived: dict[UUID, int] = {}
        self._diagnose = diagnose
        self._busy_at = time.monotonic()
        self._skipped_at = time.monotonic()
        self._look_again_s = _POLL_S
        self._others_wait = False
        self._listener = WakeableListener(database.url.render_as_string(hide_password=False), OPERATION_QUEUED)
        self._cancellation = cancellation or Cancellation(database, settings.base_id, settings.trainer_id)
        self._metrics = metrics or TrainerMetrics()
        self._stepping = Stepping(database, blobs, checkpoints, engine, self._cancellation, self._metrics)
        overdue_s = settings.promote_timeout_s + _HANGS_AFTER_S
        self._continuations = Continuations(self._new_promotion, self._listener.wake, overdue_s)
        self._cancellation.elsewhere = self._continuations.model_ids
        self._passes = Passes(database, blobs, engine, self._metrics, keeper)
        loading = Loading(database, blobs, checkpoints, engine, self._passes)
        files = NodeFiles(database, checkpoints)
        snapshots = Snapshots(files, self._metrics)
        self._models = OpenModels(engine, loading, self._passes, snapshots, settings.snapshots, self._metrics)
        self._saving = Saving(
            database, blobs, engine, files, snapshots, self._cancellation, self._models.open_node, self._metrics
        )
        self._handlers: dict[str, Callable[[Lease, Operation, ModelState], None]] = {
            FORWARD_BACKWARD.name: partial(self._pass, self._passes.forward_backward),
            FORWARD.name: partial(self._pass, self._passes.forward),
            BACKWARD.name: partial(self._pass, self._passes.backward),
            OPTIM_STEP.name: self._optim_step,
            UNPROMOTED_STEP.name: self._unpromoted_step,
            SAVE.name: self._save,
        }
        assert self._handlers.keys() == KINDS.keys(), "each kind of operation has a handler"

    def run(self, stop: Stop, leave: Callable[[float], bool] = lambda idle_s: False) -> None:
        """Work until `stop` is set; what is under way then is finished, or left to be handed back. `leave` gets for
        how long there was no work, and says whether that is the end."""
        away_pause_s = _AWAY_PAUSE_S
        while not stop.is_set():
            try:
                self._listener.listen()
                while not stop.is_set() and self._advance():
                    away_pause_s = _AWAY_PAUSE_S
                    self._skip_wake_ups()
                away_pause_s = _AWAY_PAUSE_S
                if not stop.is_set() and not self._continuations and leave(time.monotonic() - self._busy_at):
                    break
                self._let_go_of_idle_models()
                stop.nap(lambda: self._listener.wait(self._look_again_s))
            except DATABASE_AWAY as error:
                log.warning("database_away", error=str(error).splitlines()[0])
                self._models.forget_all()
                # One that takes no writes must not be sent one finished operation after the other.
                stop.nap(partial(time.sleep, away_pause_s))
                away_pause_s = min(2 * away_pause_s, _MAX_AWAY_PAUSE_S)
        self.close()

    def _skip_wake_ups(self) -> None:
        """One that always finds work waits for none."""
        if time.monotonic() - self._skipped_at > _SKIP_EVERY_S:
            self._skipped_at = time.monotonic()
            self._listener.skip()

    def close(self) -> None:
        """Listen no more; what is being written in the background is finished."""
        self._continuations.close(_LAST_CONTINUATIONS_S)
        while (ended := self._continuations.collect()) is not None:
            if ended.error is None:  # what has failed is handed back
                self._note(ended)
        self._listener.close()
        self._models.close()

    def work_once(self) -> bool:
        """Carry out one operation, to its end; False when there is none for this trainer."""
        found = self._advance()
        self._end_continuations()
        return found

    def _advance(self) -> bool:
        """Carry out one operation, a step as far as it needs the engine; False when there is none for this trainer."""
        self._collect()
        while self._continuations.must_be_waited_for:
            self._continuations.wait(_POLL_S)
            self._collect()
        lease = self._take_next_model()
        if lease is None:
            return False
        with self._letting_go(lease.model_id):
            with self._database.connection() as connection:
                started = work.start_next(connection, lease)
            if started is None:
                return False
            operation, model = started
            with self._metrics.operation(operation, model), self._cancellation.of(lease, operation):
                if operation.attempts > 1:
                    with self._outliving(operation):
                        self._end_continuations()
                self._carry_out(lease, operation, model)
            if operation.attempts > 1:
                self._end_continuations()
            if lease.model_id not in self._continuations:
                self._models.snapshot_if_due(lease.model_id)
            self._busy_at = time.monotonic()
        return True

    @contextmanager
    def _letting_go(self, model_id: UUID) -> Generator[None]:
        """What was not carried out to an end leaves nothing in the engine."""
        try:
            yield
        except Cancelled as cancelled:
            log.info("operation_cancelled", model=str(model_id), reason=str(cancelled))
            if model_id not in self._models:  # while gradients were replayed
                self._models.forget(model_id)
        except Interrupted:
            log.info("operation_interrupted", model=str(model_id))
            self._models.forget(model_id)
        except LeaseLost:
            log.warning("lease_lost", model=str(model_id))
            self._models.forget(model_id)

    def _end_continuations(self) -> None:
        """Wait for all. An operation that was started before, and whose trainer may have died of it, runs alone: others
        must not be counted as the cause (`_refuse_poison`)."""
        self._collect()
        while self._continuations:
            self._continuations.wait(_POLL_S)
            self._collect()

    def _collect(self) -> None:
        """Note how operations have ended that went on beside the engine."""
        while (ended := self._continuations.collect()) is not None:
            self._busy_at = time.monotonic()
            self._note(ended)

    def _note(self, ended: Ended) -> None:
        one = ended.continuation
        with self._letting_go(one.model.id), self._metrics.rest_of(one.operation, one.model):
            self._end(ended)

    def _end(self, ended: Ended) -> None:
        one = ended.continuation
        with self._refusing(one.lease, one.operation, one.model):
            if ended.error is not None:
                if one.opens_again:
                    self._models.forget(one.model.id)
                raise ended.error
            one.finish(ended.result)

    def _take_next_model(self) -> Lease | None:
        with self._database.connection() as connection:
            base_id, trainer_id = self._settings.base_id, self._settings.trainer_id
            upcoming = next_model(connection, base_id, trainer_id, self._continuations.model_ids())
        if upcoming is None or upcoming.free_in_s:
            self._look_again_s = min(_POLL_S, upcoming.free_in_s) if upcoming else _POLL_S
            return None
        self._look_again_s, model_id = _LOST_RACE_S, upcoming.model_id
        self._others_wait = upcoming.num_models > 1
        if (lease := self._models.lease_of(model_id)) is not None:
            return lease
        fault_point("lease:before-take")
        with self._database.session() as session:
            token = leases.acquire(session, self._settings.trainer_id, model_id, self._settings.lease_ttl_s)
        fault_point("lease:after-take")
        return Lease(model_id, token) if token is not None else None

    def _carry_out(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        with self._refusing(lease, operation, model):
            self._refuse_poison(operation)
            self._models.bring_to_head(lease, model)
            started = time.monotonic()
            self._handlers[operation.kind](lease, operation, model)
            self._models.note_work(model.id, time.monotonic() - started)

    @contextmanager
    def _refusing(self, lease: Lease, operation: Operation, model: ModelState) -> Generator[None]:
        """Write down what the block raises, as the end of the operation or as what it is put off for."""
        context = log.bind(model=model.slug, operation=str(operation.id), kind=operation.kind)
        try:
            yield
            if model.id not in self._continuations:
                self._outlived.pop(operation.id, None)
                context.info("operation_done")
        except (LeaseLost, Interrupted, Cancelled):
            raise
        except Superseded:
            context.info("operation_superseded")
            self._models.forget(model.id)
            self._fail(lease, operation, Superseded("the head was moved while this operation ran; nothing was kept"))
        except Exception as error:
            trouble = trouble_behind(error, operation, self._diagnose)
            if is_end(operation, trouble):
                context.info("operation_refused", code=trouble.code, reason=trouble.message)
                self._fail(lease, operation, trouble)
            else:
                is_bug = trouble.code == HeadwayError.code
                context.warning("operation_deferred", code=trouble.code, reason=trouble.message, exc_info=is_bug)
                self._defer(lease, operation, trouble)
            if not isinstance(error, HeadwayError):
                self._models.forget(model.id)
            if isinstance(trouble, DeviceLost):
                raise trouble from error

    def _refuse_poison(self, operation: Operation) -> None:
        """An operation that kills its trainer must not be tried without end: all models of the base would wait behind
        it."""
        if operation.attempts - self._outlived.get(operation.id, 0) > A_FEW:
            raise TrainerLost(
                f"this {operation.kind} was started {A_FEW} times and its trainer died each time, perhaps for want of "
                "memory; send a smaller batch"
            )

    def num_leases(self) -> int:
        """Models that this trainer holds. May be called from any thread."""
        return len(self._models)

    def _fail(self, lease: Lease, operation: Operation, error: HeadwayError) -> None:
        self._metrics.failed(error.code)
        with self._noting_the_end(lease, operation) as connection:
            work.fail(connection, lease, operation, error)

    def _defer(self, lease: Lease, operation: Operation, trouble: HeadwayError) -> None:
        self._metrics.deferred(trouble.code)
        self._models.forget(lease.model_id)
        with self._noting_the_end(lease, operation) as connection:
            defer(connection, lease, operation, trouble, forgiven=1 + self._outlived.get(operation.id, 0))

    @contextmanager
    def _noting_the_end(self, lease: Lease, operation: Operation) -> Generator[Connection]:
        try:
            with self._outliving(operation), self._database.connection() as connection:
                yield connection
            self._outlived.pop(operation.id, None)
        except Superseded:
            self._models.forget(lease.model_id)

    @contextmanager
    def _outliving(self, operation: Operation) -> Generator[None]:
        """While the database is away the operation stays as it is, and that it was started once more is remembered
        here, for its trainer has not died."""
        try:
            yield
        except DATABASE_AWAY:
            self._outlived[operation.id] = self._outlived.get(operation.id, 0) + 1
            raise

    def _let_go_of_idle_models(self) -> None:
        for model_id, lease in self._models.idle_for(self._settings.idle_lease_s):
            if model_id in self._continuations:
                continue
            with self._database.session() as session:
                released = leases.release(session, model_id, lease.token)
            log.info("model_given_up", model=str(model_id), lease_released=released)
            self._models.forget(model_id)

    def _optim_step(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        with self._stepping_on(lease, operation, model) as (summaries, num_left_out):
            if not summaries:
                raise NothingAccumulated(_NOTHING_ACCUMULATED)
            step = self._stepping.optim_step(lease, operation, model, summaries, num_left_out)
        self._models.note_being_promoted(model.id)
        promote, finish = partial(self._stepping.promote, step), partial(self._promoted, step)
        self._go_on(Continuation(lease, operation, model, promote, finish, opens_again=True))

    def _promoted(self, step: AppliedStep, checkpoint_id: UUID) -> None:
        self._stepping.promoted(step, checkpoint_id)
        self._models.note_promoted(step.lease, step.model)

    def _pass(
        self,
        handler: Callable[[Lease, Operation, ModelState], EndedPass],
        lease: Lease,
        operation: Operation,
        model: ModelState,
    ) -> None:
        """Where other models have work, the next one does not wait until this pass is on the disk."""
        ended = handler(lease, operation, model)
        if not self._others_wait or self._continuations.has_brief:
            ended.write_down()
            ended.keep()
            return
        write_down, keep = (lambda _: ended.write_down()), (lambda _: ended.keep())
        self._go_on(Continuation(lease, operation, model, write_down, keep, is_brief=True))

    def _go_on(self, continuation: Continuation) -> None:
        self._metrics.goes_on()
        self._continuations.begin(continuation)

    def _unpromoted_step(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        with self._stepping_on(lease, operation, model) as (summaries, num_left_out):
            if not summaries:
                self._stepping.nothing_to_step(lease, operation)
                return
            checkpoint_id = self._stepping.unpromoted_step(lease, operation, model, summaries, num_left_out)
        self._models.note_stepped(model, checkpoint_id)

    @contextmanager
    def _stepping_on(
        self, lease: Lease, operation: Operation, model: ModelState
    ) -> Generator[tuple[list[dict[str, Any]], int]]:
        """What the gradients left that the engine holds and the step applies, and how many it leaves out. When the
        block raises, the model has to be loaded again."""
        with self._database.connection() as connection:
            pending, num_left_out = work.gradients_of_step(connection, operation)
        try:
            if self._passes.accumulated(model.id) != list(pending):
                log.info("gradients_left_out", model=model.slug, operation=str(operation.id), applied=len(pending))
                self._models.load(lease, model)
            yield list(pending.values()), num_left_out
        except BaseException:
            self._models.forget(model.id)
            raise

    def _new_promotion(self) -> Promotion:
        listener = Listener(self._database.url.render_as_string(hide_password=False), ADAPTER_LOADED)
        return Promotion(self._database, listener, self._settings.promote_timeout_s, self._settings.promotion)

    def _save(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        save, note = self._saving.write(lease, operation, model), partial(self._models.note_saved, model)
        if save.request.use.is_sampled:
            self._go_on(Continuation(lease, operation, model, partial(self._saving.complete_when_held, save), note))
        else:
            note(self._saving.complete(save))
