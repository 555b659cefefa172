"""Wait for an operation to end, and read what came of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.blobs import BlobStore
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import OPERATION_DONE, AsyncListener
from store.planes import live_trainers
from store.tables import ModelRow, OperationRow
from wire.errors import HeadwayError, Superseded, TimedOut, Unavailable, error_from_code
from wire.payload import decode

_POLL_S = 5.0
_AWAY_POLL_S = 0.5
_SUPERSEDED = "the model's head was moved before these gradients were applied, so they were dropped; roll out again"


async def wait_for_result(
    database: AsyncDatabase, listener: AsyncListener, blobs: BlobStore, operation_id: UUID, timeout_s: float
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The decoded result of an operation, as soon as it is done.

    Raises the error with which it failed, Superseded when the head moved, TimedOut when it is still open after
    `timeout_s`: it then goes on without its caller.
    """
    deadline = time.monotonic() + timeout_s
    with listener.subscribe(OPERATION_DONE, operation_id.hex) as subscription:
        while True:
            operation = await _look(database, operation_id)
            if operation is not None and operation.state not in ("queued", "running"):
                return await asyncio.to_thread(_read_result, operation, blobs)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise await _timed_out(database, operation, timeout_s)
            await subscription.wait(min(left_s, _POLL_S if operation is not None else _AWAY_POLL_S))


async def _look(database: AsyncDatabase, operation_id: UUID) -> OperationRow | None:
    """The operation as it stands; None while the database is away, which ends no operation."""
    try:
        async with database.session() as session:
            return await session.get_one(OperationRow, operation_id)
    except DATABASE_AWAY:
        return None


def _read_result(operation: OperationRow, blobs: BlobStore) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    if operation.state == "superseded":
        raise Superseded(_SUPERSEDED)
    if operation.state == "failed":
        raise error_from_code(operation.error_code or "internal", operation.error_message or "the operation failed")
    if operation.result_blob is not None:
        return decode(blobs.get(operation.result_blob))
    assert operation.result is not None
    return decode(operation.result)


async def _timed_out(database: AsyncDatabase, operation: OperationRow | None, timeout_s: float) -> HeadwayError:
    if operation is None:
        return Unavailable("the database does not answer; the operation is in its log and will still be carried out")
    async with database.session() as session:
        why = await _why_waiting(session, operation)
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
