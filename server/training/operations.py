"""From a checked request to an operation in the log, and from its result back to a caller who may be gone."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from fastapi import Request
from psycopg.errors import UniqueViolation
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.context import Context
from server.hang_up import unless_hung_up
from server.storing import stored_or_refused
from store.blobs import BlobStore
from store.notify import OPERATION_DONE, Subscription
from store.oplog.append import PlacedPayload, append_operation, place_payload
from store.oplog.lost_answers import abandon, adopt_gradient, repeated_step
from store.oplog.results import Result, take_result, wait_for_result
from store.tables import GRADIENT_KINDS, OperationRow
from wire.errors import Conflict, InvalidRequest, NothingAccumulated
from wire.off_loop import off_loop
from wire.tracing import span

log = structlog.get_logger(__name__)

IDEMPOTENCY_HEADER = "Idempotency-Key"

_abandoning: set[asyncio.Task[None]] = set()
"""Kept here, since the event loop does not hold its tasks."""


async def run_operation(
    context: Context,
    request: Request,
    model_id: UUID,
    kind: str,
    payload: bytes,
    *,
    forward_id: UUID | None = None,
    admit: Callable[[], Awaitable[None]] | None = None,
    num_tokens: int = 0,
) -> tuple[UUID, Result]:
    """Append the operation, wait for its result, and note that somebody was there to take it.

    `admit` raises where the state of things forbids the operation. It is not asked about one that is in the log
    already: a retry gets the result that was made. The operation goes on when the caller hangs up (ClientGone) or gets
    another error; its answer then counts as not given. `num_tokens`: what it adds to the team's training tokens of the
    day, once it is in the log.
    """
    call = _Call(
        id=uuid.uuid4(),
        caller=context.listener.presence.new_call(),
        model_id=model_id,
        kind=kind,
        payload=payload,
        forward_id=forward_id,
        key=_idempotency_key(request),
        digest=_digest(kind, payload, forward_id),
        num_tokens=num_tokens,
    )
    # Listening begins before the operation exists, so its end cannot be missed and nobody has to look for it.
    with _watched(context, call), context.listener.subscribe(OPERATION_DONE, call.id.hex) as done:
        found_id = await _find(context, call)
        structlog.contextvars.bind_contextvars(operation=str(found_id or call.id), model_id=str(model_id))
        if found_id is None and admit is not None:
            await admit()
        try:
            operation_id = found_id or await _append(context, call)
            async with context.shutdown.waiting():
                return operation_id, await unless_hung_up(request, _result(context, call, operation_id, done))
        except NothingAccumulated:
            if repeated := await _repeated_step(context, call):
                return repeated
            raise
        except BaseException:
            _abandon(context, found_id or call.id, call.caller)
            raise


@contextmanager
def _watched(context: Context, call: _Call) -> Generator[None]:
    """Time the wait for an answer; its span links to the trace of the operation's work in the trainer."""
    named = {"operation": str(call.id), "model": str(call.model_id), "kind": call.kind}
    with context.metrics.operation(call.kind), span(f"wait for {call.kind}", named, about=call.id):
        yield


@dataclass(frozen=True, slots=True)
class _Call:
    """A call and the operation that it appends, unless it is about one that is in the log already."""

    id: UUID
    caller: int
    model_id: UUID
    kind: str
    payload: bytes
    forward_id: UUID | None
    key: str | None
    digest: bytes
    num_tokens: int


def _digest(kind: str, payload: bytes, forward_id: UUID | None) -> bytes:
    """What two requests must share to be the same one."""
    applied_to = forward_id.bytes if forward_id else b""
    return hashlib.sha256(kind.encode() + b"\0" + applied_to + payload).digest()


async def _find(context: Context, call: _Call) -> UUID | None:
    """The operation that this call is about: of its key, or, without one, of the same call whose answer got lost."""
    if call.key is not None:
        async with context.database.session() as session:
            known = await _same_key(session, call.model_id, call.key)
        return _same_operation(known, call.digest) if known else None
    if call.kind not in GRADIENT_KINDS:
        return None
    async with context.database.connection() as connection:
        return await adopt_gradient(connection, call.model_id, call.digest, call.caller)


async def _append(context: Context, call: _Call) -> UUID:
    """The operation's id, or that of the one which a racing call with the same key has appended."""
    placed = await off_loop(len(call.payload), placed_or_refused, context.blobs, call.payload)
    try:
        async with context.database.connection() as connection:
            appended = await append_operation(
                connection,
                operation_id=call.id,
                model_id=call.model_id,
                kind=call.kind,
                forward_id=call.forward_id,
                idempotency_key=call.key,
                body_digest=call.digest,
                caller=call.caller,
                num_tokens=call.num_tokens,
                **placed,
            )
            return appended.id
    except UniqueViolation:
        if found_id := await _find(context, call):
            return found_id
        raise


async def _result(context: Context, call: _Call, operation_id: UUID, done: Subscription) -> Result:
    timeout_s = context.settings.timeouts.operation_s
    if operation_id == call.id:
        return await take_result(context.database, done, context.blobs, operation_id, timeout_s, call.caller)
    return await wait_for_result(
        context.database, context.listener, context.blobs, operation_id, timeout_s, call.caller
    )


async def _repeated_step(context: Context, call: _Call) -> tuple[UUID, Result] | None:
    """What the optim_step returned that this one repeats, unless a key says that it repeats none."""
    if call.key is not None:
        return None
    async with context.database.connection() as connection:
        repeated_id = await repeated_step(connection, call.id)
    if repeated_id is None:
        return None
    log.info("step_repeated", operation=str(call.id), repeats=str(repeated_id))
    return repeated_id, await wait_for_result(context.database, context.listener, context.blobs, repeated_id, 0.0)


def _abandon(context: Context, operation_id: UUID, caller: int) -> None:
    """In the background: it takes as long as the database is away, and the caller may be waiting for its error."""
    task = asyncio.create_task(abandon(context.database, operation_id, caller))
    _abandoning.add(task)
    task.add_done_callback(_abandoning.discard)


def placed_or_refused(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Where the payload lies. Raises Unavailable when the disk does not take it: then nothing was logged."""
    with stored_or_refused("batch"):
        return place_payload(blobs, payload)


async def _same_key(session: AsyncSession, model_id: UUID, key: str) -> OperationRow | None:
    query = select(OperationRow).where(OperationRow.model_id == model_id, OperationRow.idempotency_key == key)
    return await session.scalar(query)


def _same_operation(known: OperationRow, digest: bytes) -> UUID:
    if known.body_digest != digest:
        raise Conflict(f"the {IDEMPOTENCY_HEADER} of this request was used for another body; send a new key")
    return known.id


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not (1 <= len(key) <= 200 and key.isprintable()):
        raise InvalidRequest(f"{IDEMPOTENCY_HEADER} must be 1 to 200 printable characters")
    return key
