"""From a checked request to an operation in the log, and from its result back to a caller who may be gone."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from fastapi import Request
from psycopg.errors import UniqueViolation
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.context import Context
from server.hang_up import unless_hung_up
from server.off_loop import off_loop
from store.blobs import BlobStore
from store.notify import OPERATION_DONE
from store.oplog.append import PlacedPayload, append_operation, place_payload
from store.oplog.results import Result, take_result, wait_for_result
from store.tables import OperationRow
from wire.errors import Conflict, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)

IDEMPOTENCY_HEADER = "Idempotency-Key"


async def run_operation(
    context: Context,
    request: Request,
    model_id: UUID,
    kind: str,
    payload: bytes,
    *,
    forward_id: UUID | None = None,
    admit: Callable[[], Awaitable[None]] | None = None,
) -> tuple[UUID, Result]:
    """Append the operation, wait for its result, and note that somebody was there to take it.

    `admit` raises where the state of things forbids the operation. It is not asked about one whose Idempotency-Key is
    known: a retry gets the result that was made already. The operation goes on when the caller hangs up (ClientGone);
    its answer then counts as not given.
    """
    key, digest = _idempotency_key(request), _digest(kind, payload, forward_id)
    operation_id, timeout_s = uuid.uuid4(), context.settings.timeouts.operation_s
    # Listening begins before the operation exists, so its end cannot be missed and nobody has to look for it.
    with context.listener.subscribe(OPERATION_DONE, operation_id.hex) as done:
        known_id = await _find(context, model_id, key, digest)
        if known_id is None:
            if admit is not None:
                await admit()
            known_id = await _append(context, operation_id, model_id, kind, payload, forward_id, key, digest)
        if known_id == operation_id:
            waiting = take_result(context.database, done, context.blobs, operation_id, timeout_s)
        else:
            waiting = wait_for_result(context.database, context.listener, context.blobs, known_id, timeout_s)
        return known_id, await unless_hung_up(request, waiting)


def _digest(kind: str, payload: bytes, forward_id: UUID | None) -> bytes:
    """What two requests must share to be the same one."""
    applied_to = forward_id.bytes if forward_id else b""
    return hashlib.sha256(kind.encode() + b"\0" + applied_to + payload).digest()


async def _find(context: Context, model_id: UUID, key: str | None, digest: bytes) -> UUID | None:
    if key is None:
        return None
    async with context.database.session() as session:
        known = await _same_key(session, model_id, key)
    return _same_operation(known, digest) if known else None


async def _append(
    context: Context,
    operation_id: UUID,
    model_id: UUID,
    kind: str,
    payload: bytes,
    forward_id: UUID | None,
    key: str | None,
    digest: bytes,
) -> UUID:
    """The operation's id, or that of the one which a racing call with the same key has appended."""
    placed = await off_loop(len(payload), placed_or_refused, context.blobs, payload)
    try:
        async with context.database.connection() as connection:
            appended = await append_operation(
                connection,
                operation_id=operation_id,
                model_id=model_id,
                kind=kind,
                forward_id=forward_id,
                idempotency_key=key,
                body_digest=digest,
                **placed,
            )
            return appended.id
    except UniqueViolation:
        if known := await _find(context, model_id, key, digest):
            return known
        raise


def placed_or_refused(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Where the payload lies. Raises Unavailable when the disk does not take it: then nothing was logged."""
    try:
        return place_payload(blobs, payload)
    except OSError as error:
        log.exception("payload_not_stored")
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"the batch could not be stored ({reason}); nothing was accepted, send it again") from error


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
