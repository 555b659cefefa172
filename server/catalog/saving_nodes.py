"""Has a trainer write the files of a node that has none, before something needs them: a head that is moved by hand, a
fork."""

from __future__ import annotations

import hashlib
import time
from uuid import UUID

import structlog
from psycopg.errors import UniqueViolation

from server.process.shutdown import Shutdown
from store.database import AsyncDatabase
from store.notify import OPERATION_DONE, AsyncListener
from store.operation_kinds import SAVE
from store.oplog.append import append_operation
from store.oplog.keys import operation_of_key
from store.tables import CheckpointRow, OperationRow
from wire.errors import Unavailable, error_from_code
from wire.saves import SaveRequest, Use, encode_save

log = structlog.get_logger(__name__)

_POLL_S = 1.0


class NodeSaving:
    """Asks for files, and waits for them for so long."""

    def __init__(self, database: AsyncDatabase, listener: AsyncListener, shutdown: Shutdown, timeout_s: float) -> None:
        self._database = database
        self._listener = listener
        self._shutdown = shutdown
        self._timeout_s = timeout_s

    async def save(self, node: CheckpointRow) -> None:
        """Return when the node has files. Raises Unavailable when no trainer has written them in time, and what kept
        one from it. Whoever asks again waits for the same operation."""
        if node.is_saved:
            return
        operation_id = await self._operation(node)
        log.info("files_asked_for", checkpoint=node.name, operation=str(operation_id))
        async with self._shutdown.waiting():
            await self._until_ended(node, operation_id)

    async def _operation(self, node: CheckpointRow) -> UUID:
        """One for each node, whoever asks."""
        key, payload = f"files of {node.id}", encode_save(SaveRequest(Use.FILES, checkpoint_id=node.id))
        try:
            async with self._database.connection() as connection:
                appended = await append_operation(
                    connection,
                    model_id=node.model_id,
                    kind=SAVE.name,
                    payload=payload,
                    idempotency_key=key,
                    request_digest=hashlib.sha256(payload).digest(),
                )
                return appended.id
        except UniqueViolation:
            async with self._database.connection() as connection:
                found = await operation_of_key(connection, node.model_id, key)
        assert found is not None, "operations are not removed"
        return found.id

    async def _until_ended(self, node: CheckpointRow, operation_id: UUID) -> None:
        deadline = time.monotonic() + self._timeout_s
        with self._listener.subscribe(OPERATION_DONE, operation_id.hex) as subscription:
            while True:
                async with self._database.session() as session:
                    row = await session.get_one(OperationRow, operation_id)
                if row.state == "done":
                    return
                if row.state in ("failed", "superseded"):
                    raise error_from_code(row.error_code or "internal", row.error_message or "it was not saved")
                if (left_s := deadline - time.monotonic()) <= 0:
                    raise Unavailable(
                        f"{node.name} has no files yet, and no trainer has written them within "
                        f"{self._timeout_s:.0f} s; it goes on, try again"
                    )
                await subscription.wait(min(left_s, _POLL_S))
