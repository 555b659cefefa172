"""From a checked request to an operation in the log, and from its result back to a caller who may be gone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import numpy.typing as npt
import structlog
from fastapi import Request
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from server.context import Context
from server.hang_up import unless_hung_up
from store.blobs import BlobStore
from store.database import DATABASE_AWAY
from store.oplog.append import PlacedPayload, append_operation, place_payload
from store.oplog.results import wait_for_result
from store.tables import OperationRow
from wire.errors import Conflict, InvalidRequest, Unavailable

log = structlog.get_logger(__name__)

IDEMPOTENCY_HEADER = "Idempotency-Key"
_MARK_PAUSES_S = (0.1, 0.3, 1.0)

Result = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]


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
    operation_id = await _find(context, model_id, key, digest)
    if operation_id is None:
        if admit is not None:
            await admit()
        operation_id = await _append(context, model_id, kind, payload, forward_id, key, digest)
    waiting = wait_for_result(
        context.database, context.listener, context.blobs, operation_id, context.settings.timeouts.operation_s
    )
    result = await unless_hung_up(request, waiting)
    await _mark_answered(context, operation_id)
    return operation_id, result


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
    model_id: UUID,
    kind: str,
    payload: bytes,
    forward_id: UUID | None,
    key: str | None,
    digest: bytes,
) -> UUID:
    placed = await asyncio.to_thread(placed_or_refused, context.blobs, payload)
    try:
        async with context.database.session() as session:
            operation = await append_operation(
                session,
                model_id=model_id,
                kind=kind,
                forward_id=forward_id,
                idempotency_key=key,
                body_digest=digest,
                **placed,
            )
            return operation.id
    except IntegrityError:  # a racing call with the same key was first
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


async def _mark_answered(context: Context, operation_id: UUID) -> None:
    """Committed before the reply leaves: a client acts on it at once, and its optim_step must see the answer given.

    The operation is done, so a database that is away for longer than a moment costs the note, not the answer.
    """
    for pause_s in _MARK_PAUSES_S:
        try:
            return await _write_answered(context, operation_id)
        except DATABASE_AWAY:
            await asyncio.sleep(pause_s)
    try:
        await _write_answered(context, operation_id)
    except DATABASE_AWAY as error:
        log.warning("answer_not_noted", operation=str(operation_id), error=str(error).partition("\n")[0])


async def _write_answered(context: Context, operation_id: UUID) -> None:
    unanswered = OperationRow.id == operation_id, OperationRow.answered_at.is_(None)
    async with context.database.session() as session:
        await session.execute(update(OperationRow).where(*unanswered).values(answered_at=func.clock_timestamp()))
