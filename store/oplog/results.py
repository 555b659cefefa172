"""Wait for an operation to end, and read what came of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeAlias
from uuid import UUID

import numpy.typing as npt
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.blobs import BlobStore
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import OPERATION_DONE, AsyncListener, Subscription
from store.planes import live_trainers
from store.tables import ModelRow, OperationRow
from wire.errors import HeadwayError, Superseded, TimedOut, Unavailable, error_from_code
from wire.payload import decode

log = structlog.get_logger(__name__)

_POLL_S = 5.0
_AWAY_POLL_S = 0.5
_NOTE_PAUSES_S = (0.1, 0.3, 1.0)
_INSTANT_BYTES = 4096  # unpacked on the event loop: a thread would take longer to wake up
_SUPERSEDED = "the model's head was moved before these gradients were applied, so they were dropped; roll out again"

Result: TypeAlias = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
"""The header and the arrays of a result."""


# Reading a result and noting that somebody was there to take it is one statement, committed before the reply leaves:
# a client acts on the reply at once, and its optim_step must see the answer given.
_TAKE = """
    update operations set answered_at = coalesce(answered_at, clock_timestamp())
    where id = %(id)s and state = 'done' and result is not null
    returning result
"""

_NOTE = "update operations set answered_at = coalesce(answered_at, clock_timestamp()) where id = %(id)s"


async def wait_for_result(
    database: AsyncDatabase, listener: AsyncListener, blobs: BlobStore, operation_id: UUID, timeout_s: float
) -> Result:
    """As `take_result`, for an operation that may have ended long ago."""
    with listener.subscribe(OPERATION_DONE, operation_id.hex) as done:
        done.wake()
        return await take_result(database, done, blobs, operation_id, timeout_s)


async def take_result(
    database: AsyncDatabase, done: Subscription, blobs: BlobStore, operation_id: UUID, timeout_s: float
) -> Result:
    """The decoded result of an operation, as soon as `done` says that it is there; noted as answered.

    Raises the error with which it failed, Superseded when the head moved, TimedOut when it is still open after
    `timeout_s`: it then goes on without its caller.
    """
    deadline, poll_s = time.monotonic() + timeout_s, _POLL_S
    while True:
        left_s = deadline - time.monotonic()
        await done.wait(max(0.0, min(left_s, poll_s)))
        try:
            if (result := await _take(database, blobs, operation_id)) is not None:
                return result
            poll_s = _POLL_S
        except DATABASE_AWAY:  # which ends no operation
            poll_s = _AWAY_POLL_S
        if left_s <= 0:
            raise await _timed_out(database, operation_id, timeout_s)


async def _take(database: AsyncDatabase, blobs: BlobStore, operation_id: UUID) -> Result | None:
    try:
        small = await _take_small(database, operation_id)
    except DATABASE_AWAY:  # a hiccup, perhaps: what cannot be noted can still be read
        small = None
    if small is None:
        return await _take_any(database, blobs, operation_id)
    return decode(small) if len(small) <= _INSTANT_BYTES else await asyncio.to_thread(decode, small)


async def _take_small(database: AsyncDatabase, operation_id: UUID) -> bytes | None:
    async with database.connection() as connection:
        row = await (await connection.execute(_TAKE, {"id": operation_id})).fetchone()
    return row.result if row else None


async def _take_any(database: AsyncDatabase, blobs: BlobStore, operation_id: UUID) -> Result | None:
    """A failure, or a result, which is noted as answered once it was read. None while the operation is open."""
    async with database.session() as session:
        operation = await session.get_one(OperationRow, operation_id)
    if operation.state == "superseded":
        raise Superseded(_SUPERSEDED)
    if operation.state == "failed":
        raise error_from_code(operation.error_code or "internal", operation.error_message or "the operation failed")
    if operation.state != "done":
        return None
    result = await asyncio.to_thread(_read_result, operation, blobs)
    await _note_answered(database, operation_id)
    return result


def _read_result(operation: OperationRow, blobs: BlobStore) -> Result:
    return decode(operation.result if operation.result is not None else blobs.get(operation.result_blob or ""))


async def _note_answered(database: AsyncDatabase, operation_id: UUID) -> None:
    """The operation is done, so a database that is away for longer than a moment costs the note, not the answer."""
    for pause_s in _NOTE_PAUSES_S:
        try:
            return await _write_answered(database, operation_id)
        except DATABASE_AWAY:
            await asyncio.sleep(pause_s)
    try:
        await _write_answered(database, operation_id)
    except DATABASE_AWAY as error:
        log.warning("answer_not_noted", operation=str(operation_id), error=str(error).partition("\n")[0])


async def _write_answered(database: AsyncDatabase, operation_id: UUID) -> None:
    async with database.connection() as connection:
        await connection.execute(_NOTE, {"id": operation_id})


async def _timed_out(database: AsyncDatabase, operation_id: UUID, timeout_s: float) -> HeadwayError:
    try:
        async with database.session() as session:
            operation = await session.get_one(OperationRow, operation_id)
            why = await _why_waiting(session, operation)
    except DATABASE_AWAY:
        return Unavailable("the database does not answer; the operation is in its log and will still be carried out")
    return TimedOut(
        f"the {operation.kind} is not done after {timeout_s:.0f} s: {why}; "
        "it stays queued and will still be carried out"
    )


async def _why_waiting(session: AsyncSession, operation: OperationRow) -> str:
    base_id = await session.scalar(select(ModelRow.base_id).where(ModelRow.id == operation.model_id))
    if base_id is None or not await live_trainers(session, base_id):
        return "no trainer for this model's base is running (see 'headway status')"
    if operation.state == "running":
        return "a trainer is still computing it"
    return "the trainer is busy with earlier operations"
