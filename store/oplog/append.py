"""Write an operation down. It is accepted when the transaction commits, and from then on it is never lost."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NotRequired, TypedDict
from uuid import UUID

from store.blob_stores import BlobStore
from store.database import AsyncConnection
from store.notify import OPERATION_QUEUED
from store.usage import COUNT
from wire.datum_payload import picture_names
from wire.errors import NotFound
from wire.process.faults import fault_point

INLINE_BYTES = 64 * 1024

# One statement, hence one transaction and one round trip. The update locks the model's row, so that numbers have no
# gaps and the operation carries the head's version as of its number.
_APPEND = f"""
    with numbered as (
        update models set next_sequence = next_sequence + 1 where id = %(model_id)s and removed_at is null
        returning next_sequence - 1 as sequence, head_version, team_id
    ), counted as (
        {COUNT}
    ), appended as (
        insert into operations (
            id, model_id, sequence, head_version, kind, state,
            payload, payload_blob, pictures, forward_id, idempotency_key, request_digest, body_digest, caller,
            num_tokens
        )
        select
            %(id)s, %(model_id)s, sequence, head_version, %(kind)s, 'queued',
            %(payload)s, %(payload_blob)s, %(pictures)s, %(forward_id)s, %(idempotency_key)s,
            %(request_digest)s, %(body_digest)s, %(caller)s, %(num_tokens)s
        from numbered
        returning sequence
    )
    select sequence, pg_notify(%(channel)s, %(key)s) from appended
"""  # noqa: S608 - put together from constants


class PlacedPayload(TypedDict):
    """A payload inline, or the blob that holds it, and the names of its pictures, which are kept as long as it is."""

    payload: bytes | None
    payload_blob: str | None
    pictures: NotRequired[list[str] | None]


@dataclass(frozen=True, slots=True)
class Appended:
    """An operation's id, and its place in the model's log."""

    id: UUID
    sequence: int


def place_payload(blobs: BlobStore, payload: bytes) -> PlacedPayload:
    """Keep a small payload for the row, make a large one a durable blob. Blocks on the disk."""
    pictures = picture_names(payload) or None
    if len(payload) <= INLINE_BYTES:
        return PlacedPayload(payload=payload, payload_blob=None, pictures=pictures)
    return PlacedPayload(payload=None, payload_blob=blobs.put(payload), pictures=pictures)


async def append_operation(
    connection: AsyncConnection,
    *,
    model_id: UUID,
    kind: str,
    operation_id: UUID | None = None,
    payload: bytes | None = None,
    payload_blob: str | None = None,
    pictures: list[str] | None = None,
    forward_id: UUID | None = None,
    idempotency_key: str | None = None,
    request_digest: bytes | None = None,
    body_digest: bytes | None = None,
    caller: int | None = None,
    num_tokens: int = 0,
) -> Appended:
    """Append to the model's log, in the caller's transaction. Raises NotFound for a model that is not there (any more).

    `caller`: the call that waits for the answer (`store.planes.presence`). None, without a key: nobody does.
    `num_tokens`: what it adds to the team's training tokens of the day, and counts for in its turn.
    """
    operation_id = operation_id or uuid.uuid4()
    values = {
        "id": operation_id,
        "model_id": model_id,
        "kind": kind,
        "payload": payload,
        "payload_blob": payload_blob,
        "pictures": pictures,
        "forward_id": forward_id,
        "idempotency_key": idempotency_key,
        "request_digest": request_digest,
        "body_digest": body_digest,
        "caller": caller,
        "num_tokens": num_tokens,
        "channel": OPERATION_QUEUED,
        "key": model_id.hex,
    }
    fault_point("append:before-commit")
    row = await (await connection.execute(_APPEND, values)).fetchone()
    fault_point("append:after-commit")
    if row is None:
        raise NotFound(f"there is no model {model_id}")
    return Appended(operation_id, row.sequence)
