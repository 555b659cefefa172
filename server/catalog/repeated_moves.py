"""A move of a head that was asked for twice is made once.

A move waits until samplers have loaded its checkpoint. A client that gets no answer meanwhile sends it again, maybe to
another server, and goes on when one of the two is answered: the other must not move the head back, or drop gradients
that were accumulated since. So whoever is about to move it looks whether the same key has, since the call came in.

"Since" goes by the ids of moves alone. A move is recorded under the model's lock, so their ids are in the order of
their commits. Other events of the model take no lock: one of them may be committed, with a higher id, before a move
that has its id already, and a call that counted from it would not see that move.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor
from store.tables import EventRow, ModelRow

SET_HEAD = "set_head"
"""The action in the audit log."""


class MovedAlready(Exception):
    """Another attempt of the same call has moved the head."""


async def newest_move(session: AsyncSession, model_id: UUID) -> int:
    """The id of the last move of the model's head in the audit log; 0 without any. Takes no lock."""
    moves = select(func.max(EventRow.id)).where(EventRow.subject_id == model_id, EventRow.action == SET_HEAD)
    return await session.scalar(moves) or 0


async def refuse_repeated(
    session: AsyncSession, actor: Actor, model_id: UUID, target: UUID | None, since_move: int
) -> None:
    """Raises MovedAlready when the actor moved the head to this target after that move. Holds the model's lock from
    then on, so that of two attempts one is first."""
    await session.execute(select(ModelRow.id).where(ModelRow.id == model_id).with_for_update())
    same = select(EventRow.id).where(
        EventRow.subject_id == model_id,
        EventRow.id > since_move,
        EventRow.action == SET_HEAD,
        EventRow.key_id == actor.key_id,
        EventRow.detail["to"].astext.is_not_distinct_from(str(target) if target else None),
    )
    if await session.scalar(same.limit(1)) is not None:
        raise MovedAlready
