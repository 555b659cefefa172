"""The trainer's loop: lease a model, bring it to its head, carry out its operations in order.

Speaks to the op log and the checkpoint store, and to the engine through its port; knows nothing of torch. What
survives a crash is in the log: whoever takes the lease next loads the head and replays the gradients that no step
has consumed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from store.blobs import BlobStore
from store.checkpoint_stores import CheckpointStore
from store.database import DATABASE_AWAY, Database
from store.notify import ADAPTER_LOADED, OPERATION_QUEUED, Listener
from store.oplog import leases, work
from store.oplog.operation import ModelState, Operation
from store.oplog.work import Lease
from store.tables import CheckpointRow
from trainer.passes import Passes
from trainer.promotion import Promotion
from trainer.stepping import Stepping
from wire.engine import Engine, LoraConfig
from wire.errors import HeadwayError, LeaseLost, NothingAccumulated, Superseded, TrainerLost, Unavailable

log = structlog.get_logger(__name__)

_POLL_S = 2.0
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Which base this trainer serves, as whom, and how long a promotion may take."""

    base_id: UUID
    trainer_id: UUID
    promote_timeout_s: float = 60.0


@dataclass(slots=True)
class _Resident:
    """A model that the engine holds: under which lease, and for which position of the head."""

    lease: Lease
    head_version: int


class Worker:
    """Works off the operations of one base's models with one engine."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        checkpoints: CheckpointStore,
        engine: Engine,
        settings: WorkerSettings,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._engine = engine
        self._settings = settings
        self._resident: dict[UUID, _Resident] = {}
        self._listener = Listener(database.url.render_as_string(hide_password=False), OPERATION_QUEUED, ADAPTER_LOADED)
        promotion = Promotion(database, self._listener, settings.promote_timeout_s)
        self._stepping = Stepping(database, blobs, checkpoints, engine, promotion)
        self._passes = Passes(database, blobs, engine)
        self._handlers: dict[str, Callable[[Lease, Operation, ModelState], None]] = {
            "forward_backward": self._passes.forward_backward,
            "forward": self._passes.forward,
            "backward": self._passes.backward,
            "optim_step": self._optim_step,
        }

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; the operation under way is finished first."""
        while not stop.is_set():
            try:
                self._listener.listen()
                while not stop.is_set() and self.work_once():
                    pass
                if not stop.is_set():
                    self._listener.wait(_POLL_S)
            except DATABASE_AWAY as error:
                log.warning("database_away", error=str(error).splitlines()[0])
                self._forget_all()
                stop.wait(1.0)
        self._listener.close()

    def work_once(self) -> bool:
        """Carry out one operation; False when there is none for this trainer."""
        lease = self._take_next_model()
        if lease is None:
            return False
        try:
            with self._database.connection() as connection:
                started = work.start_next(connection, lease)
            if started is None:
                return False
            self._carry_out(lease, *started)
        except LeaseLost:
            log.warning("lease_lost", model=str(lease.model_id))
            self._forget(lease.model_id)
        return True

    def _take_next_model(self) -> Lease | None:
        with self._database.connection() as connection:
            model_id = work.next_model(connection, self._settings.base_id, self._settings.trainer_id)
        if model_id is None:
            return None
        if model_id in self._resident:
            return self._resident[model_id].lease
        with self._database.session() as session:
            token = leases.acquire(session, self._settings.trainer_id, model_id)
        return Lease(model_id, token) if token is not None else None

    def _carry_out(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        context = log.bind(model=model.slug, operation=str(operation.id), kind=operation.kind)
        try:
            _refuse_poison(operation)
            self._bring_to_head(lease, model)
            self._handlers[operation.kind](lease, operation, model)
            context.info("operation_done")
        except (LeaseLost, *DATABASE_AWAY):
            raise
        except Superseded:
            context.info("operation_superseded")
            self._forget(model.id)
            self._fail(lease, operation, Superseded("the head was moved while this operation ran; nothing was kept"))
        except HeadwayError as error:
            context.info("operation_refused", code=error.code, reason=error.message)
            self._fail(lease, operation, error)
        except OSError as error:
            context.exception("operation_not_stored")
            self._forget(model.id)
            reason = f"the trainer cannot use its storage ({error.strerror or error}); nothing of this {operation.kind}"
            self._fail(lease, operation, Unavailable(f"{reason} was applied, send it again when that is mended"))
        except Exception:
            context.exception("operation_broke")
            self._forget(model.id)
            message = f"the trainer failed on this {operation.kind}; its log has operation {operation.id}"
            self._fail(lease, operation, HeadwayError(message))

    def _fail(self, lease: Lease, operation: Operation, error: HeadwayError) -> None:
        try:
            with self._database.connection() as connection:
                work.fail(connection, lease, operation, error)
        except Superseded:
            self._forget(lease.model_id)

    def _bring_to_head(self, lease: Lease, model: ModelState) -> None:
        resident = self._resident.get(model.id)
        current = resident is not None and resident.lease == lease and resident.head_version == model.head_version
        if current and self._engine.holds(model.id):
            return
        self._forget(model.id)
        self._load_head(model)
        self._passes.replay(model)
        self._resident[model.id] = _Resident(lease, model.head_version)

    def _load_head(self, model: ModelState) -> None:
        lora = LoraConfig(**model.lora)
        if model.head_checkpoint_id is None:
            self._engine.open(model.id, lora, None, None)
            return
        with self._database.session() as session:
            head = session.get_one(CheckpointRow, model.head_checkpoint_id)
        files = self._checkpoints.fetch(head.files_model_id, head.files_id)
        self._engine.open(model.id, lora, files.adapter, files.state)

    def _forget(self, model_id: UUID) -> None:
        self._resident.pop(model_id, None)
        self._engine.close(model_id)

    def _forget_all(self) -> None:
        for model_id in list(self._resident):
            self._forget(model_id)

    def _optim_step(self, lease: Lease, operation: Operation, model: ModelState) -> None:
        try:
            self._stepping.optim_step(lease, operation, model)
        except NothingAccumulated:
            raise
        except BaseException:
            self._forget(model.id)
            raise
        self._resident[model.id].head_version = model.head_version + 1


def _refuse_poison(operation: Operation) -> None:
    """An operation that kills its trainer must not do so for ever: all models of the base would wait behind it."""
    if operation.attempts > _MAX_ATTEMPTS:
        raise TrainerLost(
            f"this {operation.kind} was started {_MAX_ATTEMPTS} times and its trainer died each time, perhaps for want "
            "of memory; send a smaller batch"
        )
