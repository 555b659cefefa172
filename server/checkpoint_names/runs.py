"""Training runs: the models of a team, with when they were last used and what was saved of them last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from server.checkpoint_names.paths import Kind
from server.checkpoint_names.resolving import BaseRow, find_run, is_live
from server.checkpoint_names.types import NamedCheckpoint, named_by_row
from server.principals.callers import Caller
from store.tables import CheckpointNameRow, CheckpointRow, ClientSessionRow, ModelRow

_LAST_CALLS = text("""
    select m.id, (
        select o.created_at from operations o
        where o.model_id = m.id and o.sequence is not null order by o.sequence desc limit 1
    )
    from models m where m.id = any(:model_ids)
""")


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A model, its base, and the newest name of each kind."""

    model: ModelRow
    base: ModelRow
    last_used_at: datetime
    newest: dict[Kind, NamedCheckpoint]


async def describe_run(session: AsyncSession, caller: Caller, run: str) -> TrainingRun:
    """One run. Raises NotFound, Forbidden."""
    model, base = await find_run(session, caller, run)
    return (await _described(session, [(model, base)]))[0]


async def list_runs(
    session: AsyncSession, caller: Caller, limit: int, offset: int, project: str | None = None
) -> tuple[list[TrainingRun], int]:
    """A page of the runs that the caller's key opens, newest first, and how many there are. `project`: of sessions of
    that project."""
    wanted = _wanted(caller, project)
    query = (
        select(ModelRow, BaseRow)
        .join(BaseRow, BaseRow.id == ModelRow.base_id)
        .where(*wanted)
        .order_by(ModelRow.created_at.desc(), ModelRow.id.desc())
    )
    rows = [(model, base) for model, base in await session.execute(query.limit(limit).offset(offset))]
    total = await session.scalar(select(func.count()).select_from(ModelRow).where(*wanted))
    return await _described(session, rows), total or 0


def _wanted(caller: Caller, project: str | None) -> list[ColumnElement[bool]]:
    wanted = [ModelRow.team_id == caller.team_id, ModelRow.removed_at.is_(None)]
    if caller.model_ids is not None:
        wanted.append(ModelRow.id.in_(caller.model_ids))
    if project is not None:
        of_project = select(ClientSessionRow.id).where(ClientSessionRow.project == project)
        wanted.append(ModelRow.session_id.in_(of_project))
    return wanted


async def _described(session: AsyncSession, rows: Sequence[tuple[ModelRow, ModelRow]]) -> list[TrainingRun]:
    model_ids = [model.id for model, _ in rows]
    calls = await session.execute(_LAST_CALLS, {"model_ids": model_ids})
    last_calls: dict[UUID, datetime | None] = {row[0]: row[1] for row in calls}
    newest = await _newest_names(session, dict(zip(model_ids, rows, strict=True)))
    return [
        TrainingRun(model, base, last_calls.get(model.id) or model.created_at, newest.get(model.id, {}))
        for model, base in rows
    ]


async def _newest_names(
    session: AsyncSession, rows: dict[UUID, tuple[ModelRow, ModelRow]]
) -> dict[UUID, dict[Kind, NamedCheckpoint]]:
    name = CheckpointNameRow
    query = (
        select(name, CheckpointRow)
        .join(CheckpointRow, CheckpointRow.id == name.checkpoint_id)
        .where(name.model_id.in_(rows), is_live())
        .ext(distinct_on(name.model_id, name.kind))
        .order_by(name.model_id, name.kind, name.created_at.desc(), name.id.desc())
    )
    newest: dict[UUID, dict[Kind, NamedCheckpoint]] = {}
    for row, checkpoint in await session.execute(query):
        model, base = rows[row.model_id]
        named = named_by_row(model, base, checkpoint, row)
        newest.setdefault(row.model_id, {})[named.kind] = named
    return newest
