"""Operations whose clients fetch the answer later: found for whoever asks, and waited for without a thread or a
connection each (`store.oplog.waiting`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias
from uuid import UUID

from server.catalog.runs import RunKey
from server.principals.callers import Caller
from server.training.collaborators import Training
from store.oplog.results import Result, take_result
from store.oplog.waiting import WaitingCall
from store.planes.trainer_availability import trainer_availability_async
from store.tables import ModelRow, OperationRow
from wire.errors import Gone, HeadwayError, NotFound, TimedOut, Unavailable

QueueState: TypeAlias = Literal["active", "paused_capacity"]

_FAULT = 500
"""Statuses from here on are those of faults of the service."""

_FIND = """
    select o.kind, o.state not in ('held', 'queued', 'running') as has_ended,
        m.id as model_id, m.slug, m.session_id, m.session_index
    from operations o join models m on m.id = o.model_id
    where o.id = %(id)s and m.team_id = %(team_id)s and o.client_sequence is not null and m.session_id is not null
"""


@dataclass(frozen=True, slots=True)
class Promise:
    """An operation of a run. `has_ended`: when it was looked for."""

    operation_id: UUID
    kind: str
    run_id: str
    model_id: UUID
    has_ended: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """It has not ended. `paused_capacity`: nothing works on it."""

    state: QueueState
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It has ended in this error. `is_user_s`: the request, or what it asks of this model, is the reason."""

    error: HeadwayError
    is_user_s: bool


async def find_promise(training: Training, caller: Caller, operation_id: UUID) -> Promise:
    """Raises NotFound for what is not the team's, Forbidden where the caller's key is for other models."""
    async with training.database.connection() as connection:
        found = await connection.execute(_FIND, {"id": operation_id, "team_id": caller.team_id})
        row = await found.fetchone()
    if row is None:
        raise NotFound(f"there is no request {operation_id.hex}", param="request_id")
    caller.require_model(row.model_id, row.slug)
    run_id = RunKey(row.session_id, row.session_index).run_id
    return Promise(operation_id, row.kind, run_id, row.model_id, row.has_ended)


async def follow_promise(
    training: Training, caller: Caller, operation_id: UUID, timeout_s: float
) -> tuple[Promise, Result | Pending | Failed]:
    """The operation and what has become of it, after `timeout_s` at the latest.

    Raises as `find_promise`; Gone for a result that was not kept, ServerStopping, and what the database raises while it
    is away.
    """
    # Listening begins before it is looked for, so that its end cannot be missed.
    with training.waiting_calls.wait_for(operation_id) as waiting:
        promise = await find_promise(training, caller, operation_id)
        if promise.has_ended:
            waiting.wake()
        return promise, await _outcome(training, promise, waiting, timeout_s)


async def _outcome(
    training: Training, promise: Promise, waiting: WaitingCall, timeout_s: float
) -> Result | Pending | Failed:
    async with training.shutdown.waiting():
        try:
            return await take_result(training.database, waiting, training.blobs, timeout_s)
        except Gone:
            raise
        except (TimedOut, Unavailable) as error:
            return await _pending(training, promise, error)
        except HeadwayError as error:
            return await _failed(training, promise, error)


async def _failed(training: Training, promise: Promise, error: HeadwayError) -> Failed:
    """One without a place in the log was refused before any trainer saw it."""
    if error.status < _FAULT:
        return Failed(error, is_user_s=True)
    async with training.database.session() as session:
        operation = await session.get_one(OperationRow, promise.operation_id)
    return Failed(error, is_user_s=operation.sequence is None)


async def _pending(training: Training, promise: Promise, error: HeadwayError) -> Pending:
    """Why it has not ended, as the model and its trainers are now."""
    async with training.database.session() as session:
        operation = await session.get_one(OperationRow, promise.operation_id)
        model = await session.get_one(ModelRow, promise.model_id)
        supplies = await trainer_availability_async(session, model.base_id)
    if isinstance(error, Unavailable):
        return Pending("paused_capacity", error.message)
    if model.paused_at is not None:
        return Pending("paused_capacity", f"the model is paused: {model.pause_reason}")
    if operation.state == "held":
        return Pending(
            "active", f"request {model.next_client_sequence} of this run, which comes before, is not there yet"
        )
    if (shortage := next((supply.shortage for supply in supplies if supply.shortage), None)) is not None:
        return Pending("paused_capacity", shortage)
    if operation.state == "running":
        return Pending("active", "a trainer is computing it")
    return Pending("active", "the trainer is busy with earlier operations")
