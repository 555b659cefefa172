"""Operations that wait for a trouble to pass: queued still, in their place, and not tried again before a while is over.

What a request does not deserve is no end of its operation: a full disk, a database that is away, a lost device. See
docs/decisions/0033.
"""

from __future__ import annotations

from store.database import Connection
from store.notify import OPERATION_DONE
from store.oplog import statements
from store.oplog.leases import lease_lost
from store.oplog.operation import Operation
from store.oplog.scheduling import MAX_PAUSE_S
from store.oplog.work import Lease
from wire.errors import UNTIL_MENDED, HeadwayError, Superseded
from wire.process.faults import fault_point

PAUSE_S = 1.0
"""Before it is tried again; the pause doubles each time, up to MAX_PAUSE_S. A caller who waits for a minute sees that a
trouble has passed."""

_MOST_CHARACTERS = 2000


def is_end(operation: Operation, error: HeadwayError) -> bool:
    """Whether the operation ends in this error, or is tried again."""
    return error.tries is not None and operation.faults + 1 >= error.tries


def defer(connection: Connection, lease: Lease, operation: Operation, error: HeadwayError, forgiven: int = 1) -> None:
    """Put the operation off; those who wait for it are woken, and may read why. Raises Superseded or LeaseLost.

    forgiven: of its attempts, so many were no death of a trainer.
    """
    values = {
        "id": operation.id,
        "forgiven": forgiven,
        "faults": int(error.tries is not UNTIL_MENDED),
        "reason": error.message[:_MOST_CHARACTERS],
        "pause_s": PAUSE_S,
        "max_pause_s": MAX_PAUSE_S,
        "model_id": lease.model_id,
        "token": lease.token,
        "channel": OPERATION_DONE,
        "key": operation.id.hex,
    }
    fault_point("defer:before-commit")
    (row,) = connection.execute(statements.DEFER.encode(), values)
    fault_point("defer:after-commit")
    if row.held is None:
        raise lease_lost(lease.model_id)
    if row.deferred is None:
        raise Superseded("the head was moved while this operation ran; nothing of it was kept")
