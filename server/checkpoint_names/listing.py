"""Lists of names, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.checkpoint_names.paths import Kind
from server.checkpoint_names.resolving import BaseRow, find_run, is_live
from server.checkpoint_names.types import NamedCheckpoint, named_by_row
from server.principals.callers import Caller
from server.values.paging import page_of
from store.tables import CheckpointNameRow, CheckpointRow, ModelRow

_NODE_KINDS: tuple[Kind, ...] = ("training", "sampler")

_Rows = Select[CheckpointNameRow, CheckpointRow, ModelRow, ModelRow]


@dataclass(frozen=True, slots=True)
class CheckpointSearch:
    """Names whose metadata have all of these entries; `None`: any."""

    user_metadata: Mapping[str, Any] | None = None


async def checkpoints_of_run(session: AsyncSession, caller: Caller, run: str) -> list[NamedCheckpoint]:
    """All names of a run, and, where its steps promote their checkpoints, the nodes of its tree that have files. Raises
    NotFound."""
    model, base = await find_run(session, caller, run)
    names = await session.execute(_newest_first(_names().where(CheckpointNameRow.model_id == model.id)))
    named = [_named(row) for row in names]
    if not model.serves_head:
        return named
    return [*named, *await _nodes(session, model, base)]


async def list_checkpoints(
    session: AsyncSession, caller: Caller, limit: int, offset: int
) -> tuple[list[NamedCheckpoint], int]:
    """A page of all names that the caller's key opens, and how many there are."""
    query = _of_caller(caller)
    rows = await session.execute(_newest_first(query).limit(limit).offset(offset))
    total = await session.scalar(select(func.count()).select_from(query.subquery("names")))
    return [_named(row) for row in rows], total or 0


async def search_checkpoints(
    session: AsyncSession, caller: Caller, wanted: CheckpointSearch, cursor: str | None, limit: int
) -> tuple[list[NamedCheckpoint], str | None]:
    """A page of the names that are searched for, and the cursor of the next (None: no more)."""
    query = _of_caller(caller)
    if wanted.user_metadata:
        query = query.where(CheckpointNameRow.user_metadata.contains(dict(wanted.user_metadata)))
    place = (CheckpointNameRow.created_at, CheckpointNameRow.id)
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return [_named(row) for row in rows], following


def _names() -> _Rows:
    return (
        select(CheckpointNameRow, CheckpointRow, ModelRow, BaseRow)
        .join(CheckpointRow, CheckpointRow.id == CheckpointNameRow.checkpoint_id)
        .join(ModelRow, ModelRow.id == CheckpointNameRow.model_id)
        .join(BaseRow, BaseRow.id == ModelRow.base_id)
        .where(is_live(), ModelRow.removed_at.is_(None))
    )


def _of_caller(caller: Caller) -> _Rows:
    query = _names().where(ModelRow.team_id == caller.team_id)
    return query if caller.model_ids is None else query.where(ModelRow.id.in_(caller.model_ids))


def _newest_first(query: _Rows) -> _Rows:
    return query.order_by(CheckpointNameRow.created_at.desc(), CheckpointNameRow.id.desc())


def _named(row: Any) -> NamedCheckpoint:
    name, checkpoint, model, base = row
    return named_by_row(model, base, checkpoint, name)


async def _nodes(session: AsyncSession, model: ModelRow, base: ModelRow) -> list[NamedCheckpoint]:
    is_there = CheckpointRow.status == "committed", CheckpointRow.is_saved, CheckpointRow.files_removed_at.is_(None)
    query = select(CheckpointRow).where(CheckpointRow.model_id == model.id, *is_there)
    rows = await session.scalars(query.order_by(CheckpointRow.created_at.desc(), CheckpointRow.id.desc()))
    return [NamedCheckpoint(model, base, row, kind, row.name, None) for row in rows for kind in _NODE_KINDS]
