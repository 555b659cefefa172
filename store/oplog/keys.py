"""The operation of an Idempotency-Key: there is at most one, and the key finds it as long as the log is kept."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncConnection

_FIND = """
    select id, request_digest, body_digest from operations
    where model_id = %(model_id)s and idempotency_key = %(idempotency_key)s
"""


@dataclass(frozen=True, slots=True)
class KeyedOperation:
    """What two calls with one key are compared by. `request_digest` is None in rows that an earlier version wrote."""

    id: UUID
    request_digest: bytes | None
    body_digest: bytes | None


async def operation_of_key(connection: AsyncConnection, model_id: UUID, idempotency_key: str) -> KeyedOperation | None:
    """The operation that was logged under the key."""
    found = await connection.execute(_FIND, {"model_id": model_id, "idempotency_key": idempotency_key})
    row = await found.fetchone()
    return KeyedOperation(*row) if row else None
