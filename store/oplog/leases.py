"""Leases: at most one trainer writes for a model, and one that lost its lease can write no more.

Every acquisition draws a larger token. Writes lock the lease and check its token in the same statement, so a trainer
that slept through the end of its lease does no harm, whatever its clock says.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.database import Connection
from store.notify import OPERATION_QUEUED, notify
from store.oplog.scheduling import is_starved
from store.planes.heartbeats import LEASE_TTL_S
from store.tables import CheckpointRow, ModelLeaseRow, OperationRow, TrainerRow
from store.tables.operations import lease_tokens
from wire.errors import LeaseLost

_BEAT = """
    with trainer as (
        update trainers set heartbeat_at = clock_timestamp(), stopped_at = null where id = %(trainer_id)s
        returning id, drained_at is not null as is_drained
    ), renewed as (
        update model_leases l set expires_at = clock_timestamp() + make_interval(secs => %(ttl_s)s)
        from trainer where l.trainer_id = trainer.id and not trainer.is_drained
    )
    select is_drained, set_config('synchronous_commit', 'off', true) from trainer
"""


def acquire(session: Session, trainer_id: UUID, model_id: UUID, ttl_s: float = LEASE_TTL_S) -> int | None:
    """Take a model's lease if it is free, run out, or held by a trainer that leaves its work lying; else None.

    Operations that the last holder left running are queued again, and checkpoints that it left staged are rejected.
    """
    # Locked before the statement below looks at the operations: a start under the lease is seen, or comes too late.
    session.execute(select(ModelLeaseRow.token).where(ModelLeaseRow.model_id == model_id).with_for_update())
    expires_at = func.clock_timestamp() + timedelta(seconds=ttl_s)
    row = insert(ModelLeaseRow).values(model_id=model_id, trainer_id=trainer_id, expires_at=expires_at)
    mine, now = ModelLeaseRow.trainer_id == trainer_id, func.clock_timestamp()
    free = or_(mine, ModelLeaseRow.expires_at < now, is_starved(ModelLeaseRow.model_id))
    taken = {"trainer_id": trainer_id, "expires_at": expires_at, "taken_at": now, "token": lease_tokens.next_value()}
    query = row.on_conflict_do_update(index_elements=["model_id"], set_=taken, where=free)
    token = session.scalar(query.returning(ModelLeaseRow.token))
    if token is not None:
        left_running = OperationRow.model_id == model_id, OperationRow.state == "running"
        session.execute(update(OperationRow).where(*left_running).values(state="queued", started_at=None))
        left_staged = CheckpointRow.model_id == model_id, CheckpointRow.status == "staged"
        session.execute(update(CheckpointRow).where(*left_staged).values(status="rejected"))
    return token


def beat(connection: Connection, trainer_id: UUID, ttl_s: float = LEASE_TTL_S) -> bool:
    """Say that this trainer lives and extend its leases, in one statement whose commit does not wait for the disk: what
    a crash of PostgreSQL undoes is done again. False where it is drained: then `renew_all` decides what it keeps."""
    row = connection.execute(_BEAT, {"trainer_id": trainer_id, "ttl_s": ttl_s}).fetchone()
    return row is None or not row.is_drained


def renew_all(session: Session, trainer_id: UUID, ttl_s: float = LEASE_TTL_S) -> dict[UUID, int]:
    """Extend every lease of this trainer; the models it still holds, and their tokens. One that is drained keeps those
    alone under which it carries out an operation."""
    _let_go_if_drained(session, trainer_id)
    expires_at = func.clock_timestamp() + timedelta(seconds=ttl_s)
    query = (
        update(ModelLeaseRow)
        .where(ModelLeaseRow.trainer_id == trainer_id)
        .values(expires_at=expires_at)
        .returning(ModelLeaseRow.model_id, ModelLeaseRow.token)
    )
    return {row.model_id: row.token for row in session.execute(query)}


def _let_go_if_drained(session: Session, trainer_id: UUID) -> None:
    drained = select(TrainerRow.drained_at).where(TrainerRow.id == trainer_id)
    if session.scalar(drained) is None:
        return
    # Locked first, as in `acquire`: a start under the lease is seen, or finds no lease.
    mine = ModelLeaseRow.trainer_id == trainer_id
    session.execute(select(ModelLeaseRow.token).where(mine).order_by(ModelLeaseRow.model_id).with_for_update())
    is_running = OperationRow.model_id == ModelLeaseRow.model_id, OperationRow.state == "running"
    given = delete(ModelLeaseRow).where(mine, ~exists().where(*is_running)).returning(ModelLeaseRow.model_id)
    for model_id in session.scalars(given).all():
        notify(session, OPERATION_QUEUED, model_id.hex)


def release(session: Session, model_id: UUID, token: int) -> bool:
    """Give up the lease of a model that has no open operation; False if it has one, or the lease was lost."""
    is_open = OperationRow.model_id == model_id, OperationRow.state.in_(("queued", "running"))
    held = ModelLeaseRow.model_id == model_id, ModelLeaseRow.token == token
    query = delete(ModelLeaseRow).where(*held, ~exists().where(*is_open)).returning(ModelLeaseRow.model_id)
    return session.scalar(query) is not None


def require_lease(connection: Connection, model_id: UUID, token: int) -> None:
    """Raises LeaseLost where another trainer holds the model."""
    held = connection.execute("select token from model_leases where model_id = %(id)s", {"id": model_id}).fetchone()
    if held is None or held.token != token:
        raise lease_lost(model_id)


def lease_lost(model_id: UUID) -> LeaseLost:
    """The refusal of a write whose token is no longer the lease's."""
    return LeaseLost(f"this trainer no longer holds model {model_id}")
