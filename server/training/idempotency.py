"""When two calls are the same: one Idempotency-Key, or none, and an equal digest of what was sent, which the protocol
makes of its requests."""

from __future__ import annotations

import hashlib
from uuid import UUID

from wire.errors import InvalidRequest

IDEMPOTENCY_HEADER = "Idempotency-Key"
_MOST_CHARACTERS = 200


def check_idempotency_key(key: str | None) -> None:
    """Raises InvalidRequest for one that cannot be stored."""
    if key is not None and not (1 <= len(key) <= _MOST_CHARACTERS and key.isprintable()):
        raise InvalidRequest(f"{IDEMPOTENCY_HEADER} must be 1 to {_MOST_CHARACTERS} printable characters")


def body_digest(kind: str, payload: bytes, forward_id: UUID | None) -> bytes:
    """SHA-256 of what a request was resolved to: what rows of earlier versions are compared by."""
    applied_to = forward_id.bytes if forward_id else b""
    return hashlib.sha256(kind.encode() + b"\0" + applied_to + payload).digest()
