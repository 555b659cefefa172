"""Links to the files of a checkpoint that work without a key, for an hour, as long as the key that asked for them does.

A link names the checkpoint, the key and when it ends, signed with what is stored of that key: every server process can
check it, and revoking the key ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from store.tables import ApiKeyRow, CheckpointRow, TeamRow
from wire.errors import NotFound

_LASTS = timedelta(hours=1)
# Begins as keys do, so that logs strike it out as they do those (`wire.process.logging`).
_TOKEN = re.compile(
    r"(?P<signed>hw_(?P<checkpoint>[0-9a-f]{32})-(?P<key>[0-9a-f]{32})-(?P<until>[0-9]{1,12}))-(?P<by>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class FileLink:
    """What stands in the URL, and when it stops working."""

    token: str
    expires_at: datetime


async def make_link(session: AsyncSession, caller: Caller, checkpoint: CheckpointRow) -> FileLink:
    """A link to the files of a checkpoint that the caller may read."""
    now = (await session.scalars(select(func.clock_timestamp()))).one()
    key_hash = (await session.scalars(select(ApiKeyRow.key_hash).where(ApiKeyRow.id == caller.key_id))).one()
    until = int((now + _LASTS).timestamp())
    signed = f"hw_{checkpoint.id.hex}-{caller.key_id.hex}-{until}"
    return FileLink(f"{signed}-{_signature(key_hash, signed)}", datetime.fromtimestamp(until, UTC))


async def open_link(session: AsyncSession, token: str) -> CheckpointRow:
    """The checkpoint of a link. Raises NotFound for one that is over, or was made by nobody."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise _no_link()
    key_hash = await session.scalar(_live_key(UUID(parts["key"]), int(parts["until"])))
    if key_hash is None or not hmac.compare_digest(_signature(key_hash, parts["signed"]), parts["by"]):
        raise _no_link()
    checkpoint = await session.get(CheckpointRow, UUID(parts["checkpoint"]))
    if checkpoint is None or checkpoint.files_removed_at is not None:
        raise _no_link()
    return checkpoint


def _signature(key_hash: bytes, signed: str) -> str:
    return hmac.new(key_hash, f"files:{signed}".encode(), hashlib.sha256).hexdigest()


def _live_key(key_id: UUID, until: int):
    """The hash of a key that still works, while the link does."""
    now = func.clock_timestamp()
    return (
        select(ApiKeyRow.key_hash)
        .join(TeamRow, TeamRow.id == ApiKeyRow.team_id)
        .where(
            ApiKeyRow.id == key_id,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
            TeamRow.disabled_at.is_(None),
            func.to_timestamp(until) > now,
        )
    )


def _no_link() -> NotFound:
    return NotFound("this link has expired, or was never one; ask for another")
