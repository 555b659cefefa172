"""Whether the operation that a trainer carries out still counts, and how one that does not is ended."""

from __future__ import annotations

from dataclasses import dataclass

from store.database import Connection
from store.notify import OPERATION_DONE
from store.oplog import statements
from store.oplog.leases import lease_lost
from store.oplog.operation import Operation
from store.oplog.work import Lease
from wire.errors import Superseded


@dataclass(frozen=True, slots=True)
class Awaited:
    """An operation under way, as the log has it now.

    is_unacknowledged: nobody waits for its answer, nor can ask for it by a key. will_be_left_out: and if that stays so,
    nothing will ever come of it.
    """

    is_unacknowledged: bool
    will_be_left_out: bool


def look(connection: Connection, lease: Lease, operation: Operation) -> Awaited:
    """Raises Superseded where the head was moved away from it, LeaseLost where another trainer has it."""
    (row,) = connection.execute(statements.LOOK.encode(), {"id": operation.id, "token": lease.token})
    if not row.is_held:
        raise lease_lost(lease.model_id)
    if not row.is_running:
        raise Superseded("the head was moved while this operation ran; nothing of it was kept")
    return Awaited(row.is_unacknowledged, row.is_unacknowledged and row.will_be_left_out)


def leave_out(connection: Connection, lease: Lease, operation: Operation) -> bool:
    """The operation is superseded, if it will be left out anyway. False if somebody has come to wait for it."""
    wake = {"channel": OPERATION_DONE, "key": operation.id.hex}
    return connection.execute(statements.LEAVE_OUT.encode(), {**_held(lease, operation), **wake}).fetchone() is not None


def put_back(connection: Connection, lease: Lease, operation: Operation) -> bool:
    """The operation is queued again, as if it had not been started. False if somebody has come to wait for it."""
    return connection.execute(statements.PUT_BACK.encode(), _held(lease, operation)).fetchone() is not None


def _held(lease: Lease, operation: Operation) -> dict[str, object]:
    return {"model_id": lease.model_id, "token": lease.token, "id": operation.id}
