"""A move of a head that was asked for twice is made once.

A move waits until samplers have loaded its checkpoint. A client that gets no answer meanwhile sends it again, maybe to
another server, and goes on when one of the two is answered: the other must not move the head back, or drop gradients
that were accumulated since. So whoever is about to move it looks whether the same key has, since the call came in.
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


async def newest_event(session: AsyncSession, model_id: UUID) -> int:
    """Of the model, in the audit log; 0 without any."""
    return await session.scalar(select(func.max(EventRow.id)).where(EventRow.subject_id == model_id)) or 0


async def refuse_repeated(
    session: AsyncSession, actor: Actor, model_id: UUID, target: UUID | None, since_event: int
) -> None:
    """Raises MovedAlready when the actor moved the head to this target after that event. Holds the model's lock from
    then on, so that of two attempts one is first."""
    await session.execute(select(ModelRow.id).where(ModelRow.id == model_id).with_for_update())
    same = select(EventRow.id).where(
        EventRow.subject_id == model_id,
        EventRow.id > since_event,
        EventRow.action == SET_HEAD,
        EventRow.key_id == actor.key_id,
        EventRow.detail["to"].astext.is_not_distinct_from(str(target) if target else None),
    )
    if await session.scalar(same.limit(1)) is not None:
        raise MovedAlready
