"""The trainer's side of the op log: take the next operation, and write down what came of it.

Every write is fenced by the lease token. An operation that was superseded while it ran completes as Superseded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from store.blobs import BlobStore
from store.notify import ADAPTERS_CHANGED, OPERATION_DONE, notify
from store.oplog.append import INLINE_BYTES
from store.oplog.leases import fence
from store.tables import GRADIENT_KINDS, CheckpointRow, ModelLeaseRow, ModelRow, OperationRow
from wire.errors import HeadwayError, Superseded


@dataclass(frozen=True, slots=True)
class Lease:
    """A model held by this trainer."""

    model_id: UUID
    token: int


def next_model(session: Session, base_id: UUID, trainer_id: UUID) -> UUID | None:
    """The model whose oldest open operation waits longest, among those this trainer holds or could take."""
    takeable = or_(
        ModelLeaseRow.model_id.is_(None),
        ModelLeaseRow.trainer_id == trainer_id,
        ModelLeaseRow.expires_at < func.clock_timestamp(),
    )
    query = (
        select(OperationRow.model_id)
        .join(ModelRow, ModelRow.id == OperationRow.model_id)
        .outerjoin(ModelLeaseRow, ModelLeaseRow.model_id == OperationRow.model_id)
        .where(ModelRow.base_id == base_id, OperationRow.state.in_(("queued", "running")), takeable)
        .order_by(OperationRow.created_at)
        .limit(1)
    )
    return session.scalar(query)


def start_next(session: Session, lease: Lease) -> tuple[OperationRow, ModelRow] | None:
    """Mark the model's next open operation as running under this lease."""
    fence(session, lease.model_id, lease.token)
    model = session.get_one(ModelRow, lease.model_id, with_for_update={"read": True})
    query = (
        select(OperationRow)
        .where(OperationRow.model_id == lease.model_id, OperationRow.state.in_(("queued", "running")))
        .order_by(OperationRow.sequence)
        .limit(1)
        .with_for_update()
    )
    operation = session.scalars(query).one_or_none()
    if operation is None:
        return None
    operation.state = "running"
    operation.attempts += 1
    operation.lease_token = lease.token
    operation.started_at = func.clock_timestamp()
    if operation.kind == "forward":
        operation.head_version = model.head_version  # the weights its handle belongs to
    session.flush()
    return operation, model


def pending_gradients(session: Session, model_id: UUID) -> list[OperationRow]:
    """Gradient operations that are done and that no step has consumed, in order."""
    query = (
        select(OperationRow)
        .where(OperationRow.model_id == model_id, OperationRow.kind.in_(GRADIENT_KINDS))
        .where(OperationRow.state == "done", OperationRow.consumed_by_id.is_(None))
        .order_by(OperationRow.sequence)
    )
    return list(session.scalars(query))


def read_payload(operation: OperationRow, blobs: BlobStore) -> bytes:
    """An operation's payload, from wherever it lies."""
    if operation.payload is not None:
        return operation.payload
    assert operation.payload_blob is not None
    return blobs.get(operation.payload_blob)


def place_result(blobs: BlobStore, result: bytes) -> dict[str, Any]:
    """Keep a small result for the row, make a large one a durable blob. Blocks on the disk."""
    return {"result": result} if len(result) <= INLINE_BYTES else {"result_blob": blobs.put(result)}


def complete(
    session: Session,
    lease: Lease,
    operation: OperationRow,
    placed_result: Mapping[str, Any],
    summary: Mapping[str, Any] | None = None,
) -> None:
    """The operation is done. Raises Superseded or LeaseLost, and then nothing was written."""
    fence(session, lease.model_id, lease.token)
    if operation.kind == "backward":
        used = OperationRow.id == operation.forward_id
        session.execute(update(OperationRow).where(used).values(consumed_by_id=operation.id))
    _finish(session, operation, state="done", summary=summary, **placed_result)


def fail(session: Session, lease: Lease, operation: OperationRow, error: HeadwayError) -> None:
    """The operation was refused or broke; nothing of it stays. Raises Superseded or LeaseLost."""
    fence(session, lease.model_id, lease.token)
    _finish(session, operation, state="failed", error_code=error.code, error_message=error.message)


def stage_checkpoint(session: Session, lease: Lease, checkpoint: CheckpointRow, base_id: UUID) -> None:
    """Write down a checkpoint whose files are complete, so that samplers load it before the head moves there."""
    fence(session, lease.model_id, lease.token)
    session.add(checkpoint)
    session.flush()
    notify(session, ADAPTERS_CHANGED, base_id.hex)


def reject_checkpoint(session: Session, checkpoint_id: UUID) -> None:
    """A staged checkpoint will never be committed; samplers may forget it."""
    rejected = and_(CheckpointRow.id == checkpoint_id, CheckpointRow.status == "staged")
    session.execute(update(CheckpointRow).where(rejected).values(status="rejected"))


def commit_step(
    session: Session, lease: Lease, operation: OperationRow, model: ModelRow, checkpoint_id: UUID, result: bytes
) -> None:
    """The one transaction of a step: checkpoint committed, gradients consumed, operation done, head moved.

    Raises Superseded when the head moved since the operation started, LeaseLost when the model was lost.
    """
    fence(session, lease.model_id, lease.token)
    current = session.get_one(ModelRow, model.id, with_for_update=True, populate_existing=True)
    if current.head_version != model.head_version:
        raise Superseded("the head was moved while this step was being computed; nothing was applied")
    _finish(session, operation, state="done", result=result)
    committed = {"status": "committed", "committed_at": func.clock_timestamp()}
    session.execute(update(CheckpointRow).where(CheckpointRow.id == checkpoint_id).values(**committed))
    consumed = (
        update(OperationRow)
        .where(OperationRow.model_id == model.id, OperationRow.kind.in_(GRADIENT_KINDS))
        .where(OperationRow.state == "done", OperationRow.consumed_by_id.is_(None))
        .where(OperationRow.sequence < operation.sequence)
        .values(consumed_by_id=operation.id)
    )
    session.execute(consumed)
    current.head_checkpoint_id = checkpoint_id
    current.head_version += 1
    assert current.base_id is not None
    notify(session, ADAPTERS_CHANGED, current.base_id.hex)


def _finish(session: Session, operation: OperationRow, **values: Any) -> None:
    mine = OperationRow.id == operation.id, OperationRow.state == "running"
    finished = update(OperationRow).where(*mine).values(finished_at=func.clock_timestamp(), **values)
    if session.execute(finished.returning(OperationRow.id)).one_or_none() is None:
        raise Superseded("the head was moved while this operation ran; nothing of it was kept")
    notify(session, OPERATION_DONE, operation.id.hex)
