"""Environments and their builds as their team sees them; removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, record
from server.environments.deploying import IN_PROGRESS
from server.environments.finding import environment_of_id, is_visible_to
from server.environments.types import BuildStatus, Environment, EnvironmentPage
from server.principals.callers import Caller
from server.values.paging import page_of
from server.values.sanitizing import is_storable
from store.tables import BuildLogLineRow, EnvironmentBuildRow, EnvironmentRow
from wire.errors import NotFound

_STATUS = {
    "awaiting_upload": "PENDING",
    "uploaded": "PENDING",
    "queued": IN_PROGRESS,
    "building": IN_PROGRESS,
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
}
SortBy = Literal["name", "date", "updated_at"]

Place = tuple[int, int]
"""Of a log line: attempt and number."""
BEGINNING: Place = (-1, -1)


@dataclass(frozen=True, slots=True)
class LogLine:
    """`at_ms`: since 1970, UTC."""

    place: Place
    at_ms: int
    message: str


def status_word(build: EnvironmentBuildRow) -> str:
    """As HUD's clients read it."""
    return _STATUS[build.state]


async def list_environments(
    session: AsyncSession, caller: Caller, search: str, limit: int, offset: int, sort_by: SortBy = "name"
) -> EnvironmentPage:
    """Those that the team may run and whose name contains a text. One of everybody's that the team has its own of is
    left out: the name means the team's."""
    if not is_storable(search):
        return EnvironmentPage(items=[], total=0)
    own = select(EnvironmentRow.name).where(
        EnvironmentRow.team_id == caller.team_id, EnvironmentRow.removed_at.is_(None)
    )
    query = (
        select(EnvironmentRow, EnvironmentBuildRow.version)
        .outerjoin(EnvironmentBuildRow, EnvironmentBuildRow.id == EnvironmentRow.current_build_id)
        .where(is_visible_to(caller.team_id), EnvironmentRow.name.contains(search.lower(), autoescape=True))
        .where(or_(EnvironmentRow.team_id.is_not(None), EnvironmentRow.name.not_in(own)))
    )
    total = await session.scalar(select(func.count()).select_from(query.subquery()))
    order = [EnvironmentRow.name] if sort_by == "name" else [EnvironmentRow.updated_at.desc()]
    rows = await session.execute(query.order_by(*order, EnvironmentRow.id).limit(limit).offset(offset))
    return EnvironmentPage(items=[describe(row, version) for row, version in rows], total=total or 0)


async def page_of_environments(
    session: AsyncSession, caller: Caller, cursor: str | None, limit: int
) -> tuple[Sequence[tuple[EnvironmentRow, EnvironmentBuildRow | None]], str | None]:
    """Those that the team may run, newest first, each with the version that serves."""
    query = (
        select(EnvironmentRow, EnvironmentBuildRow)
        .outerjoin(EnvironmentBuildRow, EnvironmentBuildRow.id == EnvironmentRow.current_build_id)
        .where(is_visible_to(caller.team_id))
    )
    place = EnvironmentRow.created_at, EnvironmentRow.id
    rows, following = await page_of(session, query, place, cursor, limit, newest_first=True)
    return [(row, build) for row, build in rows], following


async def get_environment(session: AsyncSession, caller: Caller, environment_id: UUID) -> Environment:
    """Raises NotFound."""
    row = await environment_of_id(session, caller, environment_id)
    return describe(row, await serving_version(session, row))


async def serving_version(session: AsyncSession, row: EnvironmentRow) -> int | None:
    """The version that serves; None: none yet."""
    query = select(EnvironmentBuildRow.version).where(EnvironmentBuildRow.id == row.current_build_id)
    return await session.scalar(query)


async def get_build(session: AsyncSession, caller: Caller, build_id: UUID) -> EnvironmentBuildRow:
    """A build of the team, or for operators of everybody's environments. Raises NotFound."""
    whose = EnvironmentBuildRow.team_id == caller.team_id
    if caller.is_admin:
        whose = or_(whose, EnvironmentBuildRow.team_id.is_(None))
    query = select(EnvironmentBuildRow).where(EnvironmentBuildRow.id == build_id, whose)
    build = (await session.scalars(query)).one_or_none()
    if build is None:
        raise NotFound(f"there is no build {build_id}; see 'headway envs list' for what is deployed")
    return build


async def build_status(session: AsyncSession, caller: Caller, build_id: UUID) -> BuildStatus:
    """How a build stands. Raises NotFound."""
    build = await get_build(session, caller, build_id)
    environment = await session.get(EnvironmentRow, build.environment_id) if build.environment_id else None
    return BuildStatus(
        id=str(build.id),
        status=status_word(build),
        registry_id=build.environment_id,
        registry_name=environment.name if environment else None,
        version=None if build.version is None else str(build.version),
        error_message=build.error_message,
        manifest=build.manifest,
        created_at=build.created_at,
        ended_at=build.ended_at,
    )


async def log_lines(
    session: AsyncSession, build_id: UUID, after: Place = BEGINNING, limit: int = 1000
) -> Sequence[LogLine]:
    """The next lines of a build's log, those of each attempt in turn."""
    place = tuple_(BuildLogLineRow.attempt, BuildLogLineRow.number)
    query = select(BuildLogLineRow).where(BuildLogLineRow.build_id == build_id, place > tuple_(*after))
    query = query.order_by(BuildLogLineRow.attempt, BuildLogLineRow.number).limit(limit)
    return [_line(row) for row in await session.scalars(query)]


async def last_log_lines(session: AsyncSession, build_id: UUID, limit: int) -> Sequence[LogLine]:
    """The end of a build's log."""
    query = select(BuildLogLineRow).where(BuildLogLineRow.build_id == build_id)
    query = query.order_by(BuildLogLineRow.attempt.desc(), BuildLogLineRow.number.desc()).limit(limit)
    return [_line(row) for row in (await session.scalars(query)).all()[::-1]]


async def newest_states(session: AsyncSession, environment_ids: Sequence[UUID]) -> dict[UUID, EnvironmentBuildRow]:
    """Of each environment the newest version."""
    query = select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id.in_(environment_ids))
    query = query.ext(distinct_on(EnvironmentBuildRow.environment_id))
    query = query.order_by(EnvironmentBuildRow.environment_id, EnvironmentBuildRow.version.desc())
    return {build.environment_id: build for build in await session.scalars(query) if build.environment_id}


async def builds_of(
    session: AsyncSession, environment_id: UUID, limit: int, below: int | None = None
) -> Sequence[EnvironmentBuildRow]:
    """Its newest versions; those below a number."""
    query = select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id == environment_id)
    if below is not None:
        query = query.where(EnvironmentBuildRow.version < below)
    return (await session.scalars(query.order_by(EnvironmentBuildRow.version.desc()).limit(limit))).all()


async def remove_environment(session: AsyncSession, actor: Actor, row: EnvironmentRow) -> None:
    """Nothing new runs on it; what runs goes on. Its secrets go at once, its archives with the next collection."""
    row.removed_at = await session.scalar(select(func.clock_timestamp()))
    row.current_build_id, row.variables = None, {}
    record(session, actor, "remove_environment", team_id=row.team_id, subject_id=row.id, name=row.name)
    await session.flush()


def describe(row: EnvironmentRow, version: int | None) -> Environment:
    """As clients see it."""
    return Environment(
        id=row.id,
        name=row.name,
        declared_name=row.declared_name,
        everybody=row.team_id is None,
        latest_version=None if version is None else str(version),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _line(row: BuildLogLineRow) -> LogLine:
    return LogLine((row.attempt, row.number), int(row.at.timestamp() * 1000), row.message)
