"""Changes of a name by its team: published or not, until when, deleted. The checkpoint itself stays a node of its tree,
and its files stay as long as another name or retention keeps them."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import actor_of, record
from server.checkpoint_names.lifetimes import check_ttl
from server.checkpoint_names.resolving import get_own_name
from server.checkpoint_names.types import NamedCheckpoint
from server.principals.callers import Caller
from store.tables import CheckpointNameRow


async def delete_name(session: AsyncSession, caller: Caller, run: str, checkpoint_id: str) -> None:
    """The path stops working. Raises NotFound."""
    found, row = await _locked(session, caller, run, checkpoint_id)
    await session.delete(row)
    _record(session, caller, "delete_checkpoint", found)


async def set_published(
    session: AsyncSession, caller: Caller, run: str, checkpoint_id: str, *, published: bool
) -> None:
    """Whether every team may load and sample it. What is so already stays so. Raises NotFound."""
    found, row = await _locked(session, caller, run, checkpoint_id)
    if published == found.is_public:
        return
    row.published_at = await _now(session) if published else None
    _record(session, caller, "publish_checkpoint" if published else "unpublish_checkpoint", found)


async def set_ttl(session: AsyncSession, caller: Caller, run: str, checkpoint_id: str, ttl_seconds: int | None) -> None:
    """After so many seconds from now the path stops working; None: never. Raises NotFound, InvalidRequest."""
    found, row = await _locked(session, caller, run, checkpoint_id)
    row.expires_at = await expiry(session, ttl_seconds)
    _record(session, caller, "set_checkpoint_ttl", found, ttl_seconds=ttl_seconds)


async def expiry(session: AsyncSession, ttl_seconds: int | None) -> datetime | None:
    """When that is, by the database's clock. Raises InvalidRequest for a time that is too short or too long."""
    if ttl_seconds is None:
        return None
    check_ttl(ttl_seconds)
    return await _now(session) + timedelta(seconds=ttl_seconds)


async def _locked(
    session: AsyncSession, caller: Caller, run: str, checkpoint_id: str
) -> tuple[NamedCheckpoint, CheckpointNameRow]:
    found = await get_own_name(session, caller, run, checkpoint_id)
    assert found.row is not None
    return found, found.row


async def _now(session: AsyncSession) -> datetime:
    return (await session.scalars(select(func.clock_timestamp()))).one()


def _record(session: AsyncSession, caller: Caller, action: str, found: NamedCheckpoint, **detail: int | None) -> None:
    what = {"path": found.path, **detail}
    record(session, actor_of(caller), action, team_id=caller.team_id, subject_id=found.checkpoint.id, **what)
