"""From a checked request to an operation in the log, and from its result back to a caller who may be gone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from fastapi import Request
from psycopg.errors import UniqueViolation

from server.context import Context
from server.http.disconnects import unless_disconnected
from server.training.admission import TrainedModel
from server.training.idempotency import IDEMPOTENCY_HEADER, body_digest
from server.uploads.storing import stored_or_refused
from store.blobs import BlobStore
from store.operation_kinds import KINDS
from store.oplog.append import PlacedPayload, append_operation, place_payload
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


async def run_operation(
    context: Context,
    request: Request,
    model: TrainedModel,
    kind: str,
    digest: bytes,
    prepare: Callable[[], Awaitable[Prepared]],
    drop: Callable[[], None],
) -> tuple[UUID, Result]:
    """Append the operation, wait for its result, and note that somebody was there to take it.

    A call that repeats one which is in the log gets the result of that, whatever has changed since; `digest` says of
    two requests whether they are the same. Otherwise the model's refusal is raised, or `prepare` resolves the request,
    and raises where the state of things forbids it. What was sent is not kept while the call waits: `drop` is called
    when it is in the log. The operation goes on when the caller hangs up (ClientDisconnected) or gets
    another error; its answer then counts as not given.
    """
    call = _Call(uuid.uuid4(), context.listener.presence.new_call(), model, kind, digest, prepare)
    found_id = await _find(context, call)
    if found_id is None and model.refusal is not None:
        raise model.refusal
    prepared = await prepare() if found_id is None else None
    # Listening begins before the operation exists, so its end cannot be missed and nobody has to look for it.
    with _watched(context, call), context.waiting_calls.wait_for(call.id) as waiting:
        structlog.contextvars.bind_contextvars(operation=str(found_id or call.id), model_id=str(model.id))
        try:
            if prepared is not None:
                found_id = await _append(context, call, prepared)
            prepared = None
            drop()
            assert found_id is not None
            async with context.shutdown.waiting():
                return found_id, await unless_disconnected(request, _result(context, call, found_id, waiting))
        except NothingAccumulated:
            if found_id is not None and (repeated := await _repeated_step(context, call, found_id)):
                return repeated
            raise
        except BaseException:
            _abandon(context, found_id or call.id, call.caller)
            raise


@contextmanager
def _watched(context: Context, call: _Call) -> Generator[None]:
    """Time the wait for an answer; its span links to the trace of the operation's work in the trainer."""
    named = {"operation": str(call.id), "model": str(call.model.id), "kind": call.kind}
    with context.metrics.operation(call.kind), span(f"wait for {call.kind}", named, about=call.id):
        yield


@dataclass(frozen=True, slots=True)
class _Call:
    """A call and the operation that it appends, unless it is about one that is in the log already."""

    id: UUID
    caller: int
    model: TrainedModel
    kind: str
    digest: bytes
    prepare: Callable[[], Awaitable[Prepared]]

    @property
    def key(self) -> str | None:
        return self.model.idempotency_key


async def _find(context: Context, call: _Call) -> UUID | None:
    """The operation that this call is about: of its key, or, without one, of the same call whose answer got lost."""
    if call.key is not None:
        return await _of_key(context, call, call.key) if call.model.admission.may_repeat else None
    kind = KINDS[call.kind]
    async with context.database.connection() as connection:
        if kind.is_gradient:
            return await adopt(connection, call.model.id, call.digest, call.caller)
        if kind.leaves_only_an_answer and call.model.admission.may_repeat:
            return await adopt(connection, call.model.id, call.digest, call.caller)
        if kind.moves_head and (call.model.admission.may_repeat or call.model.refusal is not None):
            return await same_step(connection, call.model.id, call.digest)
    return None


async def _of_key(context: Context, call: _Call, key: str) -> UUID | None:
    async with context.database.connection() as connection:
        known = await operation_of_key(connection, call.model.id, key)
    if known is None:
        return None
    if known.request_digest is not None:
        same = known.request_digest == call.digest
    else:
        same = known.body_digest == await _body_digest(call.kind, await call.prepare())
    if not same:
        raise Conflict(f"the {IDEMPOTENCY_HEADER} of this request was used for another body; send a new key")
    return known.id


async def _body_digest(kind: str, prepared: Prepared) -> bytes:
    return await off_loop(len(prepared.payload), body_digest, kind, prepared.payload, prepared.forward_id)


async def _append(context: Context, call: _Call, prepared: Prepared) -> UUID:
    """The operation's id, or that of the one which a racing call with the same key has appended."""
    placed = await off_loop(len(prepared.payload), placed_or_refused, context.blobs, prepared.payload)
    digest = await _body_digest(call.kind, prepared)
    try:
        async with context.database.connection() as connection:
            appended = await append_operation(
                connection,
                operation_id=call.id,
                model_id=call.model.id,
                kind=call.kind,
                forward_id=prepared.forward_id,
                idempotency_key=call.key,
                request_digest=call.digest,
                body_digest=digest,
                caller=call.caller,
                num_tokens=prepared.num_tokens,
                **placed,
            )
            return appended.id
    except UniqueViolation:
        if call.key is not None and (found_id := await _of_key(context, call, call.key)):
            return found_id
        raise


async def _result(context: Context, call: _Call, operation_id: UUID, waiting: WaitingCall) -> Result:
    timeout_s = context.settings.timeouts.operation_s
    if operation_id == call.id:
        return await take_result(context.database, waiting, context.blobs, timeout_s, call.caller)
    return await wait_for_result(
        context.database, context.waiting_calls, context.blobs, operation_id, timeout_s, call.caller
    )


async def _repeated_step(context: Context, call: _Call, step_id: UUID) -> tuple[UUID, Result] | None:
    """What the optim_step returned that this one repeats, unless a key says that it repeats none."""
    if call.key is not None:
        return None
    async with context.database.connection() as connection:
        repeated_id = await repeated_step(connection, step_id)
    if repeated_id is None:
        return None
    log.info("step_repeated", operation=str(step_id), repeats=str(repeated_id))
    return repeated_id, await wait_for_result(context.database, context.waiting_calls, context.blobs, repeated_id, 0.0)


def _abandon(context: Context, operation_id: UUID, caller: int) -> None:
    """In the background: it takes as long as the database is away, and the caller may be waiting for its error."""
    task = asyncio.create_task(abandon(context.background, operation_id, caller))
    _abandoning.add(task)
    task.add_done_callback(_abandoning.discard)


def placed_or_refused(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Where the payload lies. Raises Unavailable when the disk does not take it: then nothing was logged."""
    with stored_or_refused("batch"):
        return place_payload(blobs, payload)
