"""Operations whose client numbers them: carried out in the order of those numbers, in whichever order they arrive.

An operation that arrives before one with a lower number is *held*: it is in the log, durably, without a place in it.
Once all lower numbers have arrived it gets its place (`sequence`) and is queued, with those behind it. One that is
refused when it arrives has used its number up. A number that does not arrive in time is given up: what waited for it
fails, and what comes behind goes on.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from psycopg import DataError

from store.database import AsyncConnection
from store.notify import OPERATION_DONE, OPERATION_QUEUED
from store.oplog.append import PlacedPayload
from store.usage import COUNT
from wire.errors import HeadwayError, PredecessorMissing
from wire.process.faults import fault_point

LARGEST_NUMBER = 2**63 - 2
"""The number behind it can still be written down."""

# In a statement of its own: those behind it judge by what was committed when they began, so that they see whatever the
# last holder of the lock has written. In one statement, two operations that arrive at once could each miss the other.
_LOCK = "select id from models where id = %(model_id)s for no key update"

_TOO_LATE = "it came after the requests behind it had waited for it too long; send it again under a new number"

_APPEND = f"""
    with appended as (
        insert into operations (
            id, model_id, client_sequence, head_version, kind, state, payload, payload_blob, pictures, forward_id,
            request_digest, num_tokens, error_code, error_message, finished_at
        )
        select
            %(id)s, m.id, %(client_sequence)s, m.head_version, %(kind)s,
            case when is_refused or is_late then 'failed' else 'held' end,
            %(payload)s, %(payload_blob)s, %(pictures)s, %(forward_id)s, %(request_digest)s, %(num_tokens)s,
            case when is_refused then %(error_code)s::text when is_late then '{PredecessorMissing.code}' end,
            case when is_refused then %(error_message)s::text when is_late then '{_TOO_LATE}' end,
            case when is_refused or is_late then clock_timestamp() end
        from models m, lateral (
            select
                %(error_code)s::text is not null as is_refused, %(client_sequence)s < m.next_client_sequence as is_late
        ) judged
        where m.id = %(model_id)s and m.removed_at is null
        on conflict (model_id, client_sequence) where client_sequence is not null do nothing
        returning id, state
    ), numbered as (
        select m.team_id from models m, appended where m.id = %(model_id)s and appended.state = 'held'
    ), counted as (
        {COUNT}
    )
    select id from appended
"""

# From the next number on, without a gap: those that are held get the next places; others have used their number up.
_RELEASE = """
    with model as (
        select id, next_sequence, next_client_sequence, head_version from models where id = %(model_id)s
    ), here as (
        select o.id, o.state = 'held' as is_held,
            o.client_sequence - row_number() over (order by o.client_sequence) as island,
            count(*) filter (where o.state = 'held') over (order by o.client_sequence) as place
        from operations o, model
        where o.model_id = %(model_id)s and o.client_sequence >= model.next_client_sequence
    ), ready as (
        select here.* from here, model where here.island = model.next_client_sequence - 1
    ), queued as (
        update operations o
        set state = 'queued', sequence = model.next_sequence + ready.place - 1, head_version = model.head_version
        from ready, model where o.id = ready.id and ready.is_held
        returning o.id
    ), counted as (
        select (select count(*) from ready) as num_ready, (select count(*) from queued) as num_queued
    ), moved as (
        update models m
        set next_sequence = next_sequence + num_queued, next_client_sequence = next_client_sequence + num_ready
        from counted where m.id = %(model_id)s and num_ready > 0
        returning num_queued
    )
    select pg_notify(%(queued)s, %(key)s) from moved where num_queued > 0
"""

_FIND = """
    select id, request_digest from operations
    where model_id = %(model_id)s and client_sequence = %(client_sequence)s
"""

# One that is dated ahead came before the clock was set back.
_OVERDUE = """
    state = 'held' and id = any(%(watched)s)
    and created_at not between clock_timestamp() - make_interval(secs => %(after_s)s) and clock_timestamp()
"""
_HELD = "select id from operations where state = 'held'"
_WAITING_TOO_LONG = f"select distinct model_id from operations where {_OVERDUE}"

# All that is held up to the last one which has waited too long, for all of it waits for the same numbers or for more.
_GIVE_UP = f"""
    with last as (
        select max(client_sequence) as client_sequence from operations where model_id = %(model_id)s and {_OVERDUE}
    ), failed as (
        update operations o
        set state = 'failed', finished_at = clock_timestamp(), error_code = '{PredecessorMissing.code}',
            error_message = 'request ' || m.next_client_sequence || ' of this client did not arrive within '
                || %(after)s::text || ', so this one, number ' || o.client_sequence || ', was not carried out; '
                'those behind it go on'
        from last, models m
        where m.id = %(model_id)s and o.model_id = m.id and o.state = 'held'
            and o.client_sequence <= last.client_sequence
        returning o.id
    ), moved as (
        update models m set next_client_sequence = last.client_sequence + 1
        from last where m.id = %(model_id)s and last.client_sequence is not null
    )
    select pg_notify(%(done)s, replace(failed.id::text, '-', '')) from failed
"""


@dataclass(frozen=True, slots=True)
class NumberedOperation:
    """What two requests under one number are compared by."""

    id: UUID
    request_digest: bytes | None


async def operation_of_number(
    connection: AsyncConnection, model_id: UUID, client_sequence: int
) -> NumberedOperation | None:
    """The operation that was logged under the client's number."""
    found = await connection.execute(_FIND, {"model_id": model_id, "client_sequence": client_sequence})
    row = await found.fetchone()
    return NumberedOperation(*row) if row else None


async def append_in_order(
    connection: AsyncConnection,
    *,
    model_id: UUID,
    client_sequence: int,
    kind: str,
    request_digest: bytes,
    placed: PlacedPayload,
    forward_id: UUID | None = None,
    num_tokens: int = 0,
    refusal: HeadwayError | None = None,
) -> UUID | None:
    """Append under the client's number, in a transaction of its own; None where the number, or the model, is not free.

    `refusal`: it has failed with that, and used its number up. A number that was given up fails too.
    """
    operation_id = uuid.uuid4()
    values = {
        "id": operation_id,
        "model_id": model_id,
        "client_sequence": client_sequence,
        "kind": kind,
        "request_digest": request_digest,
        "forward_id": forward_id,
        "num_tokens": num_tokens,
        "error_code": refusal.code if refusal else None,
        "error_message": refusal.message if refusal else None,
        "pictures": None,
        **placed,
    }
    fault_point("number:before-commit")
    async with connection.pipeline(), connection.transaction():  # one round trip
        await connection.execute(_LOCK, values)
        appended = await connection.execute(_APPEND.encode(), values)
        await connection.execute(_RELEASE, _wake(model_id))
    fault_point("number:after-commit")
    return operation_id if await appended.fetchone() else None


async def release_numbers(connection: AsyncConnection, model_id: UUID) -> None:
    """Queue what is held behind operations that were added in another way, in a transaction of its own."""
    async with connection.transaction():
        await connection.execute(_LOCK, {"model_id": model_id})
        await connection.execute(_RELEASE, _wake(model_id))


async def held_operations(connection: AsyncConnection) -> list[UUID]:
    """That wait for an earlier number."""
    return [row.id for row in await (await connection.execute(_HELD)).fetchall()]


async def give_up_missing(connection: AsyncConnection, after_s: float, watched: Collection[UUID]) -> int:
    """Fail what has been held for so long, of those that the caller has watched; the number of models where that was
    so.

    A model whose rows cannot be changed does not keep the others waiting: its error is raised when they are done.
    """
    about = {"after_s": after_s, "watched": list(watched), "after": f"{after_s:.0f} s", "done": OPERATION_DONE}
    waiting = await (await connection.execute(_WAITING_TOO_LONG.encode(), about)).fetchall()
    failures: list[DataError] = []
    for row in waiting:
        try:
            async with connection.transaction():
                await connection.execute(_LOCK, {"model_id": row.model_id})
                await connection.execute(_GIVE_UP.encode(), {**about, "model_id": row.model_id})
                await connection.execute(_RELEASE, _wake(row.model_id))
        except DataError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return len(waiting)


def _wake(model_id: UUID) -> dict[str, object]:
    return {"model_id": model_id, "queued": OPERATION_QUEUED, "key": model_id.hex}
