"""Leases: at most one trainer writes for a model, and one that lost its lease can write no more.

Every acquisition draws a larger token. Writes lock the lease and check its token in the same statement, so a trainer
that slept through the end of its lease does no harm, whatever its clock says.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.tables import CheckpointRow, ModelLeaseRow, OperationRow
from store.tables.operations import lease_tokens
from wire.errors import LeaseLost

LEASE_TTL_S = 10.0


def acquire(session: Session, trainer_id: UUID, model_id: UUID) -> int | None:
    """Take a model's lease if it is free or run out; None if another trainer holds it.

    Operations that the last holder left running are queued again, and checkpoints that it left staged are rejected.
    """
    expires_at = func.clock_timestamp() + timedelta(seconds=LEASE_TTL_S)
    row = insert(ModelLeaseRow).values(model_id=model_id, trainer_id=trainer_id, expires_at=expires_at)
    free = or_(ModelLeaseRow.expires_at < func.clock_timestamp(), ModelLeaseRow.trainer_id == trainer_id)
    taken = {"trainer_id": trainer_id, "expires_at": expires_at, "token": lease_tokens.next_value()}
    query = row.on_conflict_do_update(index_elements=["model_id"], set_=taken, where=free)
    token = session.scalar(query.returning(ModelLeaseRow.token))
    if token is not None:
        left_running = OperationRow.model_id == model_id, OperationRow.state == "running"
        session.execute(update(OperationRow).where(*left_running).values(state="queued", started_at=None))
        left_staged = CheckpointRow.model_id == model_id, CheckpointRow.status == "staged"
        session.execute(update(CheckpointRow).where(*left_staged).values(status="rejected"))
    return token


def renew_all(session: Session, trainer_id: UUID) -> dict[UUID, int]:
    """Extend every lease of this trainer; the models it still holds, and their tokens."""
    expires_at = func.clock_timestamp() + timedelta(seconds=LEASE_TTL_S)
    query = (
        update(ModelLeaseRow)
        .where(ModelLeaseRow.trainer_id == trainer_id)
        .values(expires_at=expires_at)
        .returning(ModelLeaseRow.model_id, ModelLeaseRow.token)
    )
    return {row.model_id: row.token for row in session.execute(query)}


def release_all(session: Session, trainer_id: UUID) -> None:
    """Give every lease of this trainer back at once."""
    session.execute(delete(ModelLeaseRow).where(ModelLeaseRow.trainer_id == trainer_id))


def lease_lost(model_id: UUID) -> LeaseLost:
    """The refusal of a write whose token is no longer the lease's."""
    return LeaseLost(f"this trainer no longer holds model {model_id}")
