"""Environments as operators handle them: of any team, or of everybody; from a folder or an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import COMMAND_LINE
from server.environments.deploying import Version, make_version
from server.environments.finding import checked_name
from server.environments.runtime_config import check_runtime_config
from server.team.service import get_team
from store.tables import EnvironmentBuildRow, EnvironmentRow, TeamRow
from wire.environment_names import normalized_name
from wire.errors import Conflict, InvalidRequest, NotFound


@dataclass(frozen=True, slots=True)
class Source:
    """`archive`: digest and size of a blob that is stored; or else an image."""

    team: str | None
    name: str
    archive: tuple[str, int] | None = None
    image: str | None = None
    variables: dict[str, str] = field(default_factory=dict[str, str])
    runtime_config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """An environment, whose it is (None: everybody's), and its newest version."""

    row: EnvironmentRow
    team: str | None
    newest: EnvironmentBuildRow | None
    serving: EnvironmentBuildRow | None


async def add_version(session: AsyncSession, source: Source) -> UUID:
    """Have another version built; the id of its build. Raises NotFound for the team, InvalidRequest."""
    if (source.archive is None) == (source.image is None):
        raise InvalidRequest("an environment comes from a folder or from an image: give one of them")
    team_id = None if source.team is None else (await get_team(session, source.team)).id
    checked_name(source.name)
    build = EnvironmentBuildRow(
        team_id=team_id,
        state="uploaded",
        source="folder" if source.archive else "image",
        archive_blob=source.archive[0] if source.archive else None,
        archive_bytes=source.archive[1] if source.archive else None,
        image=source.image,
    )
    session.add(build)
    await session.flush()
    version = Version(team_id, source.name, source.variables, check_runtime_config(source.runtime_config))
    await make_version(session, COMMAND_LINE, build, version)
    return build.id


async def list_all(session: AsyncSession) -> Sequence[Listed]:
    """Every environment that was not removed."""
    query = select(EnvironmentRow, TeamRow.name).outerjoin(TeamRow, TeamRow.id == EnvironmentRow.team_id)
    query = query.where(EnvironmentRow.removed_at.is_(None)).order_by(EnvironmentRow.name, TeamRow.name)
    return [await _listed(session, row, team) for row, team in await session.execute(query)]


async def find_one(session: AsyncSession, name: str, team: str | None, *, everybody: bool = False) -> Listed:
    """The environment of that name; of a team, or everybody's, where several have one. Raises NotFound, Conflict."""
    wanted = normalized_name(name)
    query = select(EnvironmentRow, TeamRow.name).outerjoin(TeamRow, TeamRow.id == EnvironmentRow.team_id)
    query = query.where(EnvironmentRow.removed_at.is_(None), EnvironmentRow.name == wanted)
    if team is not None:
        query = query.where(EnvironmentRow.team_id == (await get_team(session, team)).id)
    elif everybody:
        query = query.where(EnvironmentRow.team_id.is_(None))
    found = (await session.execute(query)).all()
    if not found:
        raise NotFound(f"there is no environment {wanted!r}; see 'headway envs list'")
    if len(found) > 1:
        whose = ", ".join(sorted(cast(str | None, of) or "everybody" for _, of in found))
        raise Conflict(f"{len(found)} environments are called {wanted!r} ({whose}): add --team or --everybody")
    row, of = found[0]
    return await _listed(session, row, of)


async def build_of_version(session: AsyncSession, row: EnvironmentRow, version: int | None) -> EnvironmentBuildRow:
    """A version, or the newest. Raises NotFound."""
    query = select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id == row.id)
    if version is not None:
        query = query.where(EnvironmentBuildRow.version == version)
    build = (await session.scalars(query.order_by(EnvironmentBuildRow.version.desc()).limit(1))).first()
    if build is None:
        raise NotFound(f"the environment {row.name!r} has no version {version}; see 'headway envs show {row.name}'")
    return build


async def _listed(session: AsyncSession, row: EnvironmentRow, team: str | None) -> Listed:
    query = select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id == row.id)
    newest = (await session.scalars(query.order_by(EnvironmentBuildRow.version.desc()).limit(1))).first()
    serving = await session.get(EnvironmentBuildRow, row.current_build_id) if row.current_build_id else None
    return Listed(row, team, newest, serving)
