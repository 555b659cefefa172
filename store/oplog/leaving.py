"""How a trainer leaves: at once, with what it was doing, or only if nobody needs it."""

from __future__ import annotations

from uuid import UUID

from store.database import Connection
from store.notify import OPERATION_QUEUED, TRAINERS_CHANGED

# What was running is queued again. That it was started does not count, unless the trainer died of it.
_HAND_BACK = """
    with given as (
        delete from model_leases where trainer_id = %(trainer_id)s returning model_id, token
    ), queued as (
        update operations o set state = 'queued', started_at = null, attempts = greatest(o.attempts - %(forgiven)s, 0)
        from given where o.model_id = given.model_id and o.state = 'running' and o.lease_token = given.token
    ), rejected as (
        update checkpoints c set status = 'rejected'
        from given where c.model_id = given.model_id and c.status = 'staged'
    ), gone as (
        update trainers set stopped_at = clock_timestamp() where id = %(trainer_id)s returning base_id
    )
    select pg_notify(%(queued)s, replace(model_id::text, '-', '')) from given
    union all
    select pg_notify(%(changed)s, replace(base_id::text, '-', '')) from gone
"""

# An operation that is appended while this runs is seen here, or it commits later; then whoever starts trainers, woken
# by both, sees the operation and no trainer.
_LEAVE_IF_IDLE = """
    with gone as (
        update trainers t set stopped_at = clock_timestamp()
        where t.id = %(trainer_id)s and not exists (
            select from operations o join models m on m.id = o.model_id
            left join model_leases l on l.model_id = o.model_id
            where m.base_id = t.base_id and o.state in ('queued', 'running')
                and (l.model_id is null or l.trainer_id = t.id or l.expires_at < clock_timestamp())
        )
        returning t.id, t.base_id
    ), given as (
        delete from model_leases where trainer_id = (select id from gone)
    )
    select pg_notify(%(changed)s, replace(base_id::text, '-', '')) from gone
"""


def hand_back(connection: Connection, trainer_id: UUID) -> None:
    """Release every lease, queue the operation under way again, and mark the trainer as stopped: one statement, which
    wakes the others."""
    wake = {"queued": OPERATION_QUEUED, "changed": TRAINERS_CHANGED}
    connection.execute(_HAND_BACK, {"trainer_id": trainer_id, "forgiven": 1, **wake})


def release_dead(connection: Connection, host: str, pid: int) -> None:
    """Release the leases of a trainer that its parent saw die, so that nobody waits until they run out."""
    query = "select id from trainers where host = %(host)s and pid = %(pid)s and stopped_at is null"
    wake = {"queued": OPERATION_QUEUED, "changed": TRAINERS_CHANGED}
    for row in connection.execute(query, {"host": host, "pid": pid}).fetchall():
        connection.execute(_HAND_BACK, {"trainer_id": row.id, "forgiven": 0, **wake})


def leave_if_idle(connection: Connection, trainer_id: UUID) -> bool:
    """Release every lease and mark the trainer as stopped, unless an operation waits that it should carry out."""
    values = {"trainer_id": trainer_id, "changed": TRAINERS_CHANGED}
    return connection.execute(_LEAVE_IF_IDLE, values).fetchone() is not None
