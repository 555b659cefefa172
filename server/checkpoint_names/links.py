"""Links to the files of a checkpoint that work without a key, for an hour, as long as the key that asked for them and
the path that they were asked by do.

A link names the checkpoint, the name it was found under, the key and when it ends, signed with what is stored of that
key: every server process can check it. Revoking the key ends it, and so does what ends the path: that the name is
deleted, has expired, stands for another checkpoint or, for the key of another team, is not published any more.
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

from server.checkpoint_names.types import NamedCheckpoint
from server.principals.callers import Caller
from store.tables import ApiKeyRow, CheckpointNameRow, CheckpointRow, ModelRow, TeamRow
from wire.errors import NotFound

_NODE = "node"
_LASTS = timedelta(hours=1)
# Begins as keys do, so that logs strike it out as they do those (`wire.process.logging`).
_TOKEN = re.compile(
    r"(?P<signed>hw_(?P<checkpoint>[0-9a-f]{32})-(?P<name>[0-9a-f]{32}|node)-(?P<key>[0-9a-f]{32})"
    r"-(?P<until>[0-9]{1,12}))-(?P<by>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class FileLink:
    """What stands in the URL, and when it stops working."""

    token: str
    expires_at: datetime


async def make_link(session: AsyncSession, caller: Caller, found: NamedCheckpoint) -> FileLink:
    """A link to the files of a checkpoint that the caller may read."""
    now = (await session.scalars(select(func.clock_timestamp()))).one()
    key_hash = (await session.scalars(select(ApiKeyRow.key_hash).where(ApiKeyRow.id == caller.key_id))).one()
    until = int((now + _LASTS).timestamp())
    name = _NODE if found.row is None else found.row.id.hex
    signed = f"hw_{found.checkpoint.id.hex}-{name}-{caller.key_id.hex}-{until}"
    return FileLink(f"{signed}-{_signature(key_hash, signed)}", datetime.fromtimestamp(until, UTC))


async def open_link(session: AsyncSession, token: str) -> CheckpointRow:
    """The checkpoint of a link. Raises NotFound for one that is over, or was made by nobody."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise _no_link()
    key = (await session.execute(_live_key(UUID(parts["key"]), int(parts["until"])))).one_or_none()
    if key is None or not hmac.compare_digest(_signature(key.key_hash, parts["signed"]), parts["by"]):
        raise _no_link()
    checkpoint = await session.get(CheckpointRow, UUID(parts["checkpoint"]))
    if checkpoint is None or checkpoint.files_removed_at is not None:
        raise _no_link()
    if parts["name"] != _NODE and not await _is_still(session, UUID(parts["name"]), checkpoint, key.team_id):
        raise _no_link()
    return checkpoint


async def _is_still(session: AsyncSession, name_id: UUID, checkpoint: CheckpointRow, team_id: UUID) -> bool:
    """Whether the team may still read the checkpoint by this name."""
    found = (
        select(CheckpointNameRow.id)
        .join(ModelRow, ModelRow.id == CheckpointNameRow.model_id)
        .where(
            CheckpointNameRow.id == name_id,
            CheckpointNameRow.checkpoint_id == checkpoint.id,
            or_(CheckpointNameRow.expires_at.is_(None), CheckpointNameRow.expires_at > func.clock_timestamp()),
            or_(ModelRow.team_id == team_id, CheckpointNameRow.published_at.is_not(None)),
        )
    )
    return await session.scalar(found) is not None


def _signature(key_hash: bytes, signed: str) -> str:
    return hmac.new(key_hash, f"files:{signed}".encode(), hashlib.sha256).hexdigest()


def _live_key(key_id: UUID, until: int):
    """The hash and the team of a key that still works, while the link does."""
    now = func.clock_timestamp()
    return (
        select(ApiKeyRow.key_hash, ApiKeyRow.team_id)
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
