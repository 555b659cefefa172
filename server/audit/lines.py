"""Lines of the audit log on the driver's connection, in the transaction of the change that they record."""

from __future__ import annotations

from uuid import UUID

from psycopg.types.json import Jsonb

from server.audit.recording import Actor
from store.database import AsyncConnection

_INSERT = """
    insert into events (team_id, key_id, actor, action, subject_id, detail)
    values (%(team_id)s, %(key_id)s, %(actor)s, %(action)s, %(subject_id)s, %(detail)s)
    returning id
"""
_UPDATE = "update events set detail = %(detail)s where id = %(id)s returning id"


class GrowingLine:
    """One line for work that is done in several transactions: each of them brings it up to date, so that what was done
    is recorded wherever the work is broken off."""

    def __init__(self, actor: Actor, action: str, *, team_id: UUID, subject_id: UUID | None = None) -> None:
        self._values = {
            "team_id": team_id,
            "key_id": actor.key_id,
            "actor": actor.name,
            "action": action,
            "subject_id": subject_id,
        }
        self._id: int | None = None

    async def write(self, connection: AsyncConnection, **detail: int) -> None:
        """All that was done so far, this transaction's part included."""
        values = {**self._values, "detail": Jsonb(detail) if detail else None}
        if self._id is not None:
            written = await connection.execute(_UPDATE, {**values, "id": self._id})
            if await written.fetchone() is not None:  # else the transaction that made the line was rolled back
                return
        row = await (await connection.execute(_INSERT, values)).fetchone()
        assert row is not None
        self._id = row.id
