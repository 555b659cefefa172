"""Wait for an operation to end, and read what came of it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, TypeAlias
from uuid import UUID

import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.blobs import BlobStore
from store.database import DATABASE_AWAY, AsyncDatabase
from store.notify import OPERATION_DONE, AsyncListener, Subscription
from store.oplog.deferring import Trouble, trouble_of
from store.supply import supplies_async
from store.tables import ModelRow, OperationRow
from wire.errors import Gone, HeadwayError, TimedOut, Unavailable, error_from_code
from wire.faults import fault_point
from wire.payload import decode

TROUBLE_S = 60.0
"""The HUD SDK sends no training call again by itself, and waits for 600 s."""

_POLL_S = 5.0
_TROUBLED_POLL_S = 0.5
_AWAY_RETRY_S = 5
_INSTANT_BYTES = 4096  # unpacked on the event loop: a thread would take longer to wake up

_AWAY = Trouble(
    "operation", True, "the database does not answer; the operation is in its log, send the same call again", 0.0
)

Result: TypeAlias = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
"""The header and the arrays of a result."""


# No answer is given that is not noted, for a gradient without answer may be left out of a step. Taking a result and
# noting that is one statement, committed before the reply leaves: a client acts on the reply at once. A caller that
# turns out to be gone takes the note back, unless somebody else was given the answer as well; then `caller` is null.
_NOTE = """
    update operations set
        answered_at = coalesce(answered_at, clock_timestamp()),
        caller = case when answered_at is null or caller = %(caller)s then %(caller)s::bigint end
    where id = %(id)s and state = 'done'
"""
_TAKE_SMALL = f"{_NOTE} and result is not null returning result"
_TAKE_ANY = f"{_NOTE} returning id"


async def wait_for_result(
    database: AsyncDatabase,
    listener: AsyncListener,
    blobs: BlobStore,
    operation_id: UUID,
    timeout_s: float,
    caller: int | None = None,
    trouble_s: float = TROUBLE_S,
) -> Result:
    """As `take_result`, for an operation that may have ended long ago."""
    with listener.subscribe(OPERATION_DONE, operation_id.hex) as done:
        done.wake()
        return await take_result(database, done, blobs, operation_id, timeout_s, caller, trouble_s)


async def take_result(
    database: AsyncDatabase,
    done: Subscription,
    blobs: BlobStore,
    operation_id: UUID,
    timeout_s: float,
    caller: int | None = None,
    trouble_s: float = TROUBLE_S,
) -> Result:
    """The decoded result of an operation, as soon as `done` says that it is there; noted as answered to `caller`.

    Raises the error with which it failed, Superseded when the head moved or a step left it out, TimedOut or Unavailable
    when there is no answer after `timeout_s`, or a trouble has kept the operation from being carried out for
    `trouble_s`: it then goes on without its caller.
    """
    deadline, poll_s = time.monotonic() + timeout_s, _POLL_S
    trouble_since: float | None = None
    while True:
        left_s = deadline - time.monotonic()
        await done.wait(max(0.0, min(left_s, poll_s)))
        try:
            if (result := await _take(database, blobs, operation_id, caller)) is not None:
                return result
            trouble = await _trouble(database, operation_id)
        except DATABASE_AWAY:  # which ends no operation
            trouble = _AWAY
        trouble_since = None if trouble is None else trouble_since or time.monotonic()
        poll_s = _POLL_S if trouble is None else _TROUBLED_POLL_S
        if left_s <= 0:
            raise await _timed_out(database, operation_id, timeout_s, trouble)
        is_waiting = trouble is not None and trouble.retry_in_s is not None  # else it is tried at this moment
        if trouble and trouble_since and is_waiting and time.monotonic() - trouble_since >= trouble_s:
            raise _unavailable(trouble)


async def _trouble(database: AsyncDatabase, operation_id: UUID) -> Trouble | None:
    async with database.connection() as connection:
        return await trouble_of(connection, operation_id)


def _unavailable(trouble: Trouble) -> Unavailable:
    if trouble is _AWAY:
        return Unavailable(_AWAY.reason, retry_after_s=_AWAY_RETRY_S)
    retry_s = max(1, math.ceil(trouble.retry_in_s or 0.0))
    which = f"the {trouble.kind}" if trouble.is_its_own else f"a {trouble.kind} before it"
    return Unavailable(
        f"{trouble.reason}; {which} stays queued and is tried again in {retry_s} s; "
        "send the same call again to wait for it",
        retry_after_s=retry_s,
    )


async def _take(database: AsyncDatabase, blobs: BlobStore, operation_id: UUID, caller: int | None) -> Result | None:
    small = await _take_small(database, operation_id, caller)
    if small is None:
        return await _take_any(database, blobs, operation_id, caller)
    return decode(small) if len(small) <= _INSTANT_BYTES else await asyncio.to_thread(decode, small)


async def _take_small(database: AsyncDatabase, operation_id: UUID, caller: int | None) -> bytes | None:
    fault_point("reply:before-take")
    async with database.connection() as connection:
        taken = await connection.execute(_TAKE_SMALL.encode(), {"id": operation_id, "caller": caller})
        row = await taken.fetchone()
    fault_point("reply:after-take")
    return row.result if row else None


async def _take_any(database: AsyncDatabase, blobs: BlobStore, operation_id: UUID, caller: int | None) -> Result | None:
    """A failure, or a result, which is noted as answered once it was read. None while the operation is open."""
    async with database.session() as session:
        operation = await session.get_one(OperationRow, operation_id)
    if operation.state in ("failed", "superseded"):
        raise error_from_code(operation.error_code or "internal", operation.error_message or "the operation failed")
    if operation.state != "done":
        return None
    result = await asyncio.to_thread(_read_result, operation, blobs)
    fault_point("reply:before-note")
    if await _note_answered(database, operation_id, caller):
        return result
    return await _take_any(database, blobs, operation_id, caller)  # superseded while it was read


def _read_result(operation: OperationRow, blobs: BlobStore) -> Result:
    if operation.result is not None:
        return decode(operation.result)
    if operation.blobs_dropped_at is not None:
        raise Gone(f"this {operation.kind} was answered long ago, and its answer was not kept any longer")
    return decode(blobs.get(operation.result_blob or ""))


async def _note_answered(database: AsyncDatabase, operation_id: UUID, caller: int | None) -> bool:
    async with database.connection() as connection:
        noted = await connection.execute(_TAKE_ANY.encode(), {"id": operation_id, "caller": caller})
        return await noted.fetchone() is not None


async def _timed_out(
    database: AsyncDatabase, operation_id: UUID, timeout_s: float, trouble: Trouble | None
) -> HeadwayError:
    if trouble is not None and trouble.retry_in_s is not None:
        return _unavailable(trouble)
    try:
        async with database.session() as session:
            operation = await session.get_one(OperationRow, operation_id)
            why = await _why_waiting(session, operation)
    except DATABASE_AWAY:
        return _unavailable(_AWAY)
    return TimedOut(
        f"the {operation.kind} is not done after {timeout_s:.0f} s: {why}; "
        "it stays queued, send the same call again to wait for it"
    )


async def _why_waiting(session: AsyncSession, operation: OperationRow) -> str:
    base_id = await session.scalar(select(ModelRow.base_id).where(ModelRow.id == operation.model_id))
    for supply in await supplies_async(session, base_id):
        if supply.shortage:
            return supply.shortage
    if operation.state == "running":
        return "a trainer is still computing it"
    return "the trainer is busy with earlier operations"
