"""Calls without an Idempotency-Key whose answer got lost: what a call that follows is taken for.

A gradient operation is acknowledged when its answer was taken (`answered_at`), in flight while the call that waits for
it lives (`caller`), and unacknowledged otherwise. See docs/decisions/0010.
"""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from store.database import DATABASE_AWAY, AsyncConnection, AsyncDatabase
from store.operation_kinds import BOUND_TO_HEAD, HANDLE_GIVERS, HEAD_MOVERS, MODEL_CHANGERS, is_any
from store.oplog.conditions import UNACKNOWLEDGED, UNANSWERED

LEFT_OUT = "passes_left_out"
"""In a step's metrics, and in its result in the log: how many passes it does not apply, because nobody received their
answers."""
REPEATED_STEP_FOR = timedelta(minutes=15)

_AWAY_PAUSE_S = 0.5

_ADOPTABLE = f"""
    case
        when {is_any("o.kind", HEAD_MOVERS)} then false
        when {is_any("o.kind", BOUND_TO_HEAD)} and o.state = 'done'
            and o.head_version is distinct from (select m.head_version from models m where m.id = o.model_id)
            then false
        when {is_any("o.kind", HANDLE_GIVERS)} then {UNACKNOWLEDGED} and o.blobs_dropped_at is null
        else true
    end
"""

# Whoever waits for a forward uses its handle, once: only one that nobody waits for is given to another call.
_ADOPT = f"""
    update operations o set caller = %(caller)s
    where o.id = (
        select o.id from operations o
        where o.model_id = %(model_id)s and o.request_digest = %(request_digest)s and {UNANSWERED} and {_ADOPTABLE}
        order by o.sequence limit 1
    ) and {UNANSWERED}
    returning o.id
"""

# A caller who was given the answer as well (`store.oplog.results`) has put itself, or null, in the place of this one.
_ABANDON = "update operations set caller = null, answered_at = null where id = %(id)s and caller = %(caller)s"

# The step moved the head from its own version to the next: if that is the head's still, nothing has moved it since.
_REPEATED_STEP = f"""
    select last.id
    from operations mine
    join models m on m.id = mine.model_id
    join lateral (
        select o.* from operations o
        where o.model_id = mine.model_id and o.sequence < mine.sequence
            and {is_any("o.kind", MODEL_CHANGERS)} and o.state = 'done'
        order by o.sequence desc limit 1
    ) last on {is_any("last.kind", HEAD_MOVERS)}
    where mine.id = %(id)s and last.body_digest = mine.body_digest and m.head_version = last.head_version + 1
        and last.finished_at > mine.created_at - %(within)s
"""

_SAME_STEP = f"""
    select last.id
    from models m
    join lateral (
        select o.* from operations o
        where o.model_id = m.id and {is_any("o.kind", MODEL_CHANGERS)}
            and o.state in ('queued', 'running', 'done')
        order by o.sequence desc limit 1
    ) last on {is_any("last.kind", HEAD_MOVERS)}
    where m.id = %(model_id)s and last.request_digest = %(request_digest)s and (
        last.state <> 'done'
        or (m.head_version = last.head_version + 1 and last.finished_at > clock_timestamp() - %(within)s)
    )
"""


async def adopt(connection: AsyncConnection, model_id: UUID, request_digest: bytes, caller: int) -> UUID | None:
    """The operation of an identical call whose answer nobody has, for which `caller` waits from now on. Never a step:
    see `same_step`."""
    values = {"model_id": model_id, "request_digest": request_digest, "caller": caller}
    row = await (await connection.execute(_ADOPT.encode(), values)).fetchone()
    return row.id if row else None


async def same_step(connection: AsyncConnection, model_id: UUID, request_digest: bytes) -> UUID | None:
    """The step of an identical call, if it is the last thing asked of the model that is open or has changed it.

    As for `repeated_step`, one that is done ended less than 15 minutes ago, and the head is where it left it.
    """
    values = {"model_id": model_id, "request_digest": request_digest, "within": REPEATED_STEP_FOR}
    row = await (await connection.execute(_SAME_STEP, values)).fetchone()
    return row.id if row else None


async def abandon(database: AsyncDatabase, operation_id: UUID, caller: int) -> None:
    """`caller` is gone and has no answer, also if it had just been taken. Tries for as long as the database is away."""
    while True:
        try:
            async with database.connection() as connection:
                await connection.execute(_ABANDON, {"id": operation_id, "caller": caller})
                return
        except DATABASE_AWAY:
            await asyncio.sleep(_AWAY_PAUSE_S)


async def repeated_step(connection: AsyncConnection, step_id: UUID) -> UUID | None:
    """The step that an optim_step which found nothing accumulated repeats.

    It has the same body, is the last thing that changed the model, ended less than 15 minutes before the call, and the
    head is still where it left it.
    """
    values = {"id": step_id, "within": REPEATED_STEP_FOR}
    row = await (await connection.execute(_REPEATED_STEP, values)).fetchone()
    return row.id if row else None
