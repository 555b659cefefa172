"""Write an operation down. It is accepted when the transaction commits, and from then on it is never lost."""

from __future__ import annotations

from typing import TypedDict
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from store.blobs import BlobStore
from store.notify import OPERATION_QUEUED, notify_async
from store.tables import ModelRow, OperationRow
from wire.errors import NotFound

INLINE_BYTES = 64 * 1024


class PlacedPayload(TypedDict):
    """A payload inline, or the blob that holds it."""

    payload: bytes | None
    payload_blob: str | None


def place_payload(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Keep a small payload for the row, make a large one a durable blob. Blocks on the disk."""
    if len(payload) <= INLINE_BYTES:
        return PlacedPayload(payload=payload, payload_blob=None)
    return PlacedPayload(payload=None, payload_blob=blobs.put(payload))


async def append_operation(
    session: AsyncSession,
    *,
    model_id: UUID,
    kind: str,
    payload: bytes | None = None,
    payload_blob: str | None = None,
    forward_id: UUID | None = None,
    idempotency_key: str | None = None,
    body_digest: bytes | None = None,
) -> OperationRow:
    """Append to the model's log, in the caller's transaction. Raises NotFound for an unknown model."""
    numbered = (
        update(ModelRow)
        .where(ModelRow.id == model_id)
        .values(next_sequence=ModelRow.next_sequence + 1)
        .returning(ModelRow.next_sequence - 1, ModelRow.head_version)
    )
    row = (await session.execute(numbered)).one_or_none()
    if row is None:
        raise NotFound(f"there is no model {model_id}")
    sequence, head_version = row
    operation = OperationRow(
        model_id=model_id,
        sequence=sequence,
        kind=kind,
        payload=payload,
        payload_blob=payload_blob,
        head_version=head_version,
        forward_id=forward_id,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
    )
    session.add(operation)
    await session.flush()
    await notify_async(session, OPERATION_QUEUED, model_id.hex)
    return operation
