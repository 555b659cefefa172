"""Runners as operators see them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.values.paging import Page, page_of
from store.planes.runner_presence import lives_sql
from store.tables import PlacementRow, RunnerRow, TeamRow

_LIVES: Any = literal_column(lives_sql("runners"))


class Runner(BaseModel):
    """A runner process. `team`: it takes this team's work alone. `num_held`: what it carries out just now, of its
    `slots`. `trouble`: why it can take nothing."""

    id: UUID
    host: str
    pid: int
    team: str | None
    kinds: list[str]
    labels: list[str]
    slots: int
    num_held: int
    isolation: str
    versions: dict[str, str]
    state: Literal["live", "drained", "silent", "stopped"]
    trouble: str | None
    started_at: datetime
    heartbeat_at: datetime
    drained_at: datetime | None


async def list_runners(session: AsyncSession, cursor: str | None, limit: int) -> Page[Runner]:
    """Every runner whose row is still kept, oldest first."""
    rows, following = await page_of(session, _runners(), (RunnerRow.started_at, RunnerRow.id), cursor, limit)
    return Page(items=[_runner(*row) for row in rows], next_cursor=following)


async def present_runners(session: AsyncSession, limit: int) -> list[Runner]:
    """Those that have not said that they stop, the newest first."""
    query = _runners().where(RunnerRow.stopped_at.is_(None)).order_by(RunnerRow.started_at.desc()).limit(limit)
    return [_runner(*row) for row in await session.execute(query)]


async def describe_runner(session: AsyncSession, runner_id: UUID) -> Runner:
    """One of them."""
    return _runner(*(await session.execute(_runners().where(RunnerRow.id == runner_id))).one())


def _runners() -> Select[RunnerRow, str | None, bool, int]:
    """Runners with their team, whether they live, and how much they hold."""
    held = select(func.count()).where(PlacementRow.runner_id == RunnerRow.id, PlacementRow.state == "running")
    query: Any = select(RunnerRow, TeamRow.name, _LIVES, held.scalar_subquery())
    return query.outerjoin(TeamRow, TeamRow.id == RunnerRow.team_id)


def _runner(row: RunnerRow, team: str | None, lives: bool, num_held: int) -> Runner:
    state = ("drained" if row.drained_at else "live") if lives else "stopped" if row.stopped_at else "silent"
    names = ("id", "host", "pid", "kinds", "labels", "slots", "isolation", "versions", "trouble")
    times = ("started_at", "heartbeat_at", "drained_at")
    facts = {name: getattr(row, name) for name in (*names, *times)}
    return Runner(**facts, team=team, num_held=num_held, state=state)
