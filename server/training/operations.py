"""From a checked request to an operation in the log, and from its result back to a caller who may be gone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from psycopg.errors import UniqueViolation

from server.training.admission import TrainedModel
from server.training.collaborators import Training
from server.training.idempotency import IDEMPOTENCY_HEADER, body_digest
from server.uploads.storing import stored_or_refused
from store.blob_stores import BlobStore
from store.blob_stores.threads import in_blob_thread
from store.operation_kinds import KINDS
from store.oplog.append import INLINE_BYTES, PlacedPayload, append_operation, place_payload
from store.oplog.keys import operation_of_key
from store.oplog.lost_answers import abandon, adopt, repeated_step, same_step
from store.oplog.results import Result, take_result, wait_for_result
from store.oplog.waiting import WaitingCall
from wire.errors import Conflict, NothingAccumulated
from wire.process.off_loop import off_loop
from wire.process.tracing import span

log = structlog.get_logger(__name__)

_abandoning: set[asyncio.Task[None]] = set()
"""Kept here, since the event loop does not hold its tasks."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request comes to in the log. `num_tokens`: what it adds to the team's training tokens of the day."""

    payload: bytes
    num_tokens: int = 0
    forward_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """An operation that is to be logged, unless the call repeats one that is.

    digest: equal for calls that ask for the same. prepare: resolves what was sent, and raises where the state of things
    forbids it; not awaited for a call that repeats another.
    """

    kind: str
    digest: bytes
    prepare: Callable[[], Awaitable[Prepared]]


@asynccontextmanager
async def submit(training: Training, model: TrainedModel, call: Call) -> AsyncGenerator[Submitted]:
    """Append an operation to the log; it is there, durably, when the block is entered.

    A call that repeats one which is in the log is about the operation of that, whatever has changed since. Otherwise
    the model's refusal is raised, or `prepare` resolves the request. Nothing of what that returned is kept while the
    block runs. The operation goes on when an exception leaves the block, as when the caller disconnects; its result
    then counts as not given.
    """
    logged = _Logged(uuid.uuid4(), training.listener.presence.new_call(), model, call)
    found_id = await _find(training, logged)
    if found_id is None and model.refusal is not None:
        raise model.refusal
    prepared = await call.prepare() if found_id is None else None
    # Listening begins before the operation exists, so its end cannot be missed and nobody has to look for it.
    with _watched(training, logged), training.waiting_calls.wait_for(logged.id) as waiting:
        structlog.contextvars.bind_contextvars(operation=str(found_id or logged.id), model_id=str(model.id))
        try:
            if prepared is not None:
                found_id = await _append(training, logged, prepared)
            prepared = None
            assert found_id is not None
            yield Submitted(training, logged, found_id, waiting)
        except NothingAccumulated:
            raise
        except BaseException:
            _abandon(training, found_id or logged.id, logged.caller)
            raise


class Submitted:
    """An operation in the log."""

    def __init__(self, training: Training, logged: _Logged, operation_id: UUID, waiting: WaitingCall) -> None:
        self.id = operation_id
        self._training = training
        self._logged = logged
        self._waiting = waiting

    async def result(self) -> Result:
        """What came of it, as soon as it is there; noted as given.

        Raises ServerStopping, and what `store.oplog.results.take_result` raises.
        """
        training = self._training
        try:
            async with training.shutdown.waiting():
                return await self._own_result()
        except NothingAccumulated:
            if (repeated := await _repeated_step(training, self._logged, self.id)) is not None:
                return repeated
            raise

    async def _own_result(self) -> Result:
        training, caller, timeout_s = self._training, self._logged.caller, self._training.operation_timeout_s
        if self.id == self._logged.id:
            return await take_result(training.database, self._waiting, training.blobs, timeout_s, caller)
        return await wait_for_result(
            training.database, training.waiting_calls, training.blobs, self.id, timeout_s, caller
        )


@contextmanager
def _watched(training: Training, logged: _Logged) -> Generator[None]:
    """Time the wait for an answer; its span links to the trace of the operation's work in the trainer."""
    named = {"operation": str(logged.id), "model": str(logged.model.id), "kind": logged.kind}
    with training.metrics.operation(logged.kind), span(f"wait for {logged.kind}", named, about=logged.id):
        yield


@dataclass(frozen=True, slots=True)
class _Logged:
    """A call and the id of the operation that it appends, unless it is about one that is in the log already. `caller`:
    this call, as long as its process is there."""

    id: UUID
    caller: int
    model: TrainedModel
    call: Call

    @property
    def kind(self) -> str:
        return self.call.kind

    @property
    def key(self) -> str | None:
        return self.model.idempotency_key


async def _find(training: Training, logged: _Logged) -> UUID | None:
    """The operation that this call is about: of its key, or, without one, of the same call whose answer got lost."""
    if logged.key is not None:
        return await _of_key(training, logged, logged.key) if logged.model.admission.may_repeat else None
    kind = KINDS[logged.kind]
    async with training.database.connection() as connection:
        if kind.is_gradient:
            return await adopt(connection, logged.model.id, logged.call.digest, logged.caller)
        if kind.leaves_only_an_answer and logged.model.admission.may_repeat:
            return await adopt(connection, logged.model.id, logged.call.digest, logged.caller)
        if kind.moves_head and (logged.model.admission.may_repeat or logged.model.refusal is not None):
            return await same_step(connection, logged.model.id, logged.call.digest)
    return None


async def _of_key(training: Training, logged: _Logged, key: str) -> UUID | None:
    async with training.database.connection() as connection:
        known = await operation_of_key(connection, logged.model.id, key)
    if known is None:
        return None
    if known.request_digest is not None:
        same = known.request_digest == logged.call.digest
    else:
        same = known.body_digest == await _body_digest(logged.kind, await logged.call.prepare())
    if not same:
        raise Conflict(f"the {IDEMPOTENCY_HEADER} of this request was used for another body; send a new key")
    return known.id


async def _body_digest(kind: str, prepared: Prepared) -> bytes:
    return await off_loop(len(prepared.payload), body_digest, kind, prepared.payload, prepared.forward_id)


async def _append(training: Training, logged: _Logged, prepared: Prepared) -> UUID:
    """The operation's id, or that of the one which a racing call with the same key has appended."""
    placed = await placed_or_refused(training.blobs, prepared.payload)
    digest = await _body_digest(logged.kind, prepared)
    try:
        async with training.database.connection() as connection:
            appended = await append_operation(
                connection,
                operation_id=logged.id,
                model_id=logged.model.id,
                kind=logged.kind,
                forward_id=prepared.forward_id,
                idempotency_key=logged.key,
                request_digest=logged.call.digest,
                body_digest=digest,
                caller=logged.caller,
                num_tokens=prepared.num_tokens,
                **placed,
            )
            return appended.id
    except UniqueViolation:
        if logged.key is not None and (found_id := await _of_key(training, logged, logged.key)):
            return found_id
        raise


async def _repeated_step(training: Training, logged: _Logged, step_id: UUID) -> Result | None:
    """What the optim_step returned that this one repeats, unless a key says that it repeats none."""
    if logged.key is not None:
        return None
    async with training.database.connection() as connection:
        repeated_id = await repeated_step(connection, step_id)
    if repeated_id is None:
        return None
    log.info("step_repeated", operation=str(step_id), repeats=str(repeated_id))
    return await wait_for_result(training.database, training.waiting_calls, training.blobs, repeated_id, 0.0)


def _abandon(training: Training, operation_id: UUID, caller: int) -> None:
    """In the background: it takes as long as the database is away, and the caller may be waiting for its error."""
    task = asyncio.create_task(abandon(training.background, operation_id, caller))
    _abandoning.add(task)
    task.add_done_callback(_abandoning.discard)


async def placed_or_refused(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Where the payload lies. Raises Unavailable when the store does not take it: then nothing was logged."""
    with stored_or_refused("batch"):
        if len(payload) > INLINE_BYTES:
            return await in_blob_thread(blobs, place_payload, blobs, payload)
        return await off_loop(len(payload), place_payload, blobs, payload)
