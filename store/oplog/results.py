"""Wait for an operation to end, and read what came of it."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, LiteralString, TypeAlias
from uuid import UUID

import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from store.blob_stores import BlobStore
from store.blob_stores.threads import in_blob_thread
from store.database import DATABASE_AWAY, AsyncDatabase
from store.operation_kinds import SERVED_CHANGERS
from store.oplog.waiting import DATABASE_TROUBLE, Trouble, WaitingCall, WaitingCalls, troubles_and_ends
from store.planes.trainer_availability import trainer_availability_async
from store.pool_queue import TooBusy
from store.tables import ModelRow, OperationRow
from wire.errors import Gone, HeadwayError, TimedOut, Unavailable, error_from_code
from wire.payload import decode
from wire.process.faults import fault_point

_AWAY_RETRY_S = 5
_INSTANT_BYTES = 4096  # unpacked on the event loop: a thread would take longer to wake up

_BUSY = Trouble(
    "operation",
    True,
    "this server has more calls at once than it can work on; the operation is in its log, send the same call again",
    0.0,
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
    where id = %(id)s and state = 'done' and (client_sequence is null or answered_at is null)
"""


_NEED_NOT_LAST = "case when client_sequence is not null then set_config('synchronous_commit', 'off', true) end"
"""SQL, for its effect: the transaction of an operation that its client has numbered does not wait for the disk."""


def _noted_or_known(columns: LiteralString, more: LiteralString = "") -> LiteralString:
    """Of an operation that its client has numbered it is noted once: it counts without that, and a client that fetches
    its result again shall not wait for a write. Nor for the disk the first time: the note may be lost."""
    return f"""
        with noted as ({_NOTE} {more} returning {columns}, {_NEED_NOT_LAST})
        select {columns} from noted
        union all
        select {columns} from operations
        where id = %(id)s and state = 'done' and client_sequence is not null {more} and not exists (select from noted)
    """  # noqa: S608 - put together from constants


_TAKE_SMALL = _noted_or_known("result, kind", "and result is not null")
_TAKE_ANY = _noted_or_known("id")


async def wait_for_result(
    database: AsyncDatabase,
    calls: WaitingCalls,
    blobs: BlobStore,
    operation_id: UUID,
    timeout_s: float,
    caller: int | None = None,
) -> Result:
    """As `take_result`, for an operation that may have ended long ago."""
    with calls.wait_for(operation_id) as call:
        call.wake()
        return await take_result(database, call, blobs, timeout_s, caller)


async def take_result(
    database: AsyncDatabase, call: WaitingCall, blobs: BlobStore, timeout_s: float, caller: int | None = None
) -> Result:
    """The decoded result of the operation that `call` waits for, as soon as it is there; noted as answered to `caller`.

    Raises the error with which it failed, Superseded when the head moved or a step left it out, TimedOut or Unavailable
    when there is no answer after `timeout_s`, or a trouble has kept the operation from being carried out for too long:
    it then goes on without its caller.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = deadline - time.monotonic()
        await call.wait(max(0.0, left_s))
        try:
            if (result := await _take(database, blobs, call.operation_id, caller)) is not None:
                return result
            call.look()
        except TooBusy:
            call.note(_BUSY)
        except DATABASE_AWAY:  # which ends no operation
            call.note(DATABASE_TROUBLE)
        if left_s <= 0:
            raise await _timed_out(database, call.operation_id, timeout_s)
        if call.trouble is not None and call.is_overdue:
            raise _unavailable(call.trouble)


def _unavailable(trouble: Trouble) -> Unavailable:
    if trouble in (DATABASE_TROUBLE, _BUSY):
        return Unavailable(trouble.reason, retry_after_s=_AWAY_RETRY_S)
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
    result, kind = small
    await _outlast_caches(database, kind)
    return decode(result) if len(result) <= _INSTANT_BYTES else await asyncio.to_thread(decode, result)


async def _take_small(database: AsyncDatabase, operation_id: UUID, caller: int | None) -> tuple[bytes, str] | None:
    """The result and the kind of the operation."""
    fault_point("reply:before-take")
    async with database.connection() as connection:
        taken = await connection.execute(_TAKE_SMALL.encode(), {"id": operation_id, "caller": caller})
        row = await taken.fetchone()
    fault_point("reply:after-take")
    return (row.result, row.kind) if row else None


async def _take_any(database: AsyncDatabase, blobs: BlobStore, operation_id: UUID, caller: int | None) -> Result | None:
    """A failure, or a result, which is noted as answered once it was read. None while the operation is open."""
    async with database.session() as session:
        operation = await session.get_one(OperationRow, operation_id)
    if operation.state in ("failed", "superseded"):
        raise error_from_code(operation.error_code or "internal", operation.error_message or "the operation failed")
    if operation.state != "done":
        return None
    result = await read_result(operation, blobs)
    fault_point("reply:before-note")
    if await _note_answered(database, operation_id, caller):
        await _outlast_caches(database, operation.kind)
        return result
    return await _take_any(database, blobs, operation_id, caller)  # superseded while it was read


async def _outlast_caches(database: AsyncDatabase, kind: str) -> None:
    """A step is answered when no server process serves the head that was before (`store.cache_barrier`)."""
    if kind in SERVED_CHANGERS:
        await database.wait_until_caches_expire()


async def read_result(operation: OperationRow, blobs: BlobStore) -> Result:
    """The result of an operation that is done. Raises Gone where it was not kept, CorruptCheckpoint, Unavailable."""
    if operation.result is not None:
        return await asyncio.to_thread(decode, operation.result)
    if operation.blobs_dropped_at is not None:
        raise Gone(f"this {operation.kind} was answered long ago, and its answer was not kept any longer")
    return await in_blob_thread(blobs, lambda: decode(blobs.get(operation.result_blob or "")))


async def _note_answered(database: AsyncDatabase, operation_id: UUID, caller: int | None) -> bool:
    async with database.connection() as connection:
        noted = await connection.execute(_TAKE_ANY.encode(), {"id": operation_id, "caller": caller})
        return await noted.fetchone() is not None


async def _timed_out(database: AsyncDatabase, operation_id: UUID, timeout_s: float) -> HeadwayError:
    try:
        async with database.connection() as connection:
            trouble = (await troubles_and_ends(connection, [operation_id])).get(operation_id)
        if trouble is not None and trouble.retry_in_s is not None:
            return _unavailable(trouble)
        async with database.session() as session:
            operation = await session.get_one(OperationRow, operation_id)
            why = await _why_waiting(session, operation)
    except TooBusy:
        return _unavailable(_BUSY)
    except DATABASE_AWAY:
        return _unavailable(DATABASE_TROUBLE)
    return TimedOut(
        f"the {operation.kind} is not done after {timeout_s:.0f} s: {why}; "
        "it stays queued, send the same call again to wait for it"
    )


async def _why_waiting(session: AsyncSession, operation: OperationRow) -> str:
    if operation.state == "held":
        return "a request of the same client with a lower number has not arrived"
    base_id = await session.scalar(select(ModelRow.base_id).where(ModelRow.id == operation.model_id))
    for supply in await trainer_availability_async(session, base_id):
        if supply.shortage:
            return supply.shortage
    if operation.state == "running":
        return "a trainer is still computing it"
    return "the trainer is busy with earlier operations"
