"""Moves of a model's head by hand. (A step moves it too: see `store.oplog.work`.)"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from store.notify import ADAPTERS_CHANGED, OPERATION_DONE, OPERATION_QUEUED, notify_async
from store.operation_kinds import CONSUMERS, GRADIENTS
from store.tables import CheckpointRow, ModelRow, OperationRow
from wire.errors import Superseded

_REASON = "the model's head was moved before these gradients were applied, so they were dropped; roll out again"


async def move_head(session: AsyncSession, model_id: UUID, checkpoint_id: UUID | None) -> None:
    """Point the head at one of the model's committed checkpoints (None: at the base weights).

    The model's name stands for it from then on, unless it has no files: then the name goes on to stand for what it did.

    Gradients that no step has consumed were computed on other weights, or asked for when those were the head's: they
    are superseded, and their callers notified. So are the steps that wait to apply them, and the one that is running,
    which cannot commit any more.
    """
    model = await session.get_one(ModelRow, model_id, with_for_update=True)
    node = await session.get_one(CheckpointRow, checkpoint_id) if checkpoint_id else None
    if node is None or node.is_saved:
        model.serves_head, model.served_checkpoint_id = True, None
    elif model.serves_head:
        model.serves_head, model.served_checkpoint_id = False, model.head_checkpoint_id
    model.head_checkpoint_id = checkpoint_id
    model.head_version += 1
    for operation_id in await session.scalars(_supersede(model_id)):
        await notify_async(session, OPERATION_DONE, operation_id.hex)
    await notify_async(session, OPERATION_QUEUED, model_id.hex)
    if model.base_id is not None:
        await notify_async(session, ADAPTERS_CHANGED, model.base_id.hex)
    await session.flush()


def _supersede(model_id: UUID):
    is_open = OperationRow.state.in_(("held", "queued", "running"))
    is_pending_gradient = and_(OperationRow.state == "done", OperationRow.consumed_by_id.is_(None))
    gradients = and_(OperationRow.kind.in_(GRADIENTS), or_(is_open, is_pending_gradient))
    steps = and_(OperationRow.kind.in_(CONSUMERS), is_open)
    return (
        update(OperationRow)
        .where(OperationRow.model_id == model_id, or_(gradients, steps))
        .values(state="superseded", error_code=Superseded.code, error_message=_REASON)
        .returning(OperationRow.id)
    )


async def head_of(session: AsyncSession, model_id: UUID) -> UUID | None:
    """The checkpoint that the head points at."""
    return await session.scalar(select(ModelRow.head_checkpoint_id).where(ModelRow.id == model_id))
