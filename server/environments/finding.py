"""Which environment a name means to a team: its own first, then one of everybody's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.principals.callers import Caller
from server.values.sanitizing import storable_text
from store.tables import EnvironmentBuildRow, EnvironmentRow
from wire.environment_names import MAX_NAME, RESERVED, normalized_name
from wire.errors import InvalidRequest, NotFound

_SHOWN_ERROR = 500
"""Characters of a build's error in a sentence."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """An environment and the version of it that serves."""

    environment: EnvironmentRow
    build: EnvironmentBuildRow


def checked_name(declared: str) -> str:
    """The normalized name. Raises InvalidRequest for a declared name that cannot be one, or is the service's own."""
    if not declared.strip() or len(declared) > MAX_NAME or not declared.isprintable():
        raise InvalidRequest(
            f"an environment's name has 1 to {MAX_NAME} printable characters; choose another", param="name"
        )
    name = normalized_name(declared)
    if name.startswith(RESERVED):
        raise InvalidRequest(f"names that begin with {RESERVED!r} are the service's own; choose another", param="name")
    return name


def is_visible_to(team_id: UUID) -> ColumnElement[bool]:
    """Of environments: the team's own and everybody's, removed ones left out."""
    return or_(EnvironmentRow.team_id == team_id, EnvironmentRow.team_id.is_(None)) & EnvironmentRow.removed_at.is_(
        None
    )


async def find_environment(session: AsyncSession, team_id: UUID, name: str) -> EnvironmentRow | None:
    """The environment of that name, declared or normalized; None where there is none."""
    query = select(EnvironmentRow).where(is_visible_to(team_id), EnvironmentRow.name == normalized_name(name))
    return (await session.scalars(query.order_by(EnvironmentRow.team_id.is_(None)).limit(1))).first()


async def find_deployed(session: AsyncSession, team_id: UUID, names: Iterable[str]) -> dict[str, Deployed]:
    """Those of the names, normalized, that have a version which serves."""
    wanted = {normalized_name(name) for name in names}
    query = (
        select(EnvironmentRow, EnvironmentBuildRow)
        .join(EnvironmentBuildRow, EnvironmentBuildRow.id == EnvironmentRow.current_build_id)
        .where(is_visible_to(team_id), EnvironmentRow.name.in_(wanted))
        .order_by(EnvironmentRow.team_id.is_not(None))  # the team's own come last and replace everybody's
    )
    return {environment.name: Deployed(environment, build) for environment, build in await session.execute(query)}


async def deployed_environment(session: AsyncSession, team_id: UUID, name: str) -> Deployed:
    """The environment of that name with its serving version. Raises NotFound."""
    environment = await find_environment(session, team_id, name)
    if environment is None:
        shown = storable_text(name[:MAX_NAME])
        raise NotFound(f"no environment {shown!r} is deployed here: deploy it with 'hud deploy', in its folder")
    if environment.current_build_id is None:
        raise NotFound(await _why_none_serves(session, environment))
    build = await session.get_one(EnvironmentBuildRow, environment.current_build_id)
    return Deployed(environment, build)


async def _why_none_serves(session: AsyncSession, environment: EnvironmentRow) -> str:
    newest = select(EnvironmentBuildRow).where(EnvironmentBuildRow.environment_id == environment.id)
    build = (await session.scalars(newest.order_by(EnvironmentBuildRow.version.desc()).limit(1))).first()
    page = f"see /environments/{environment.id}"
    if build is None:
        return f"no version of the environment {environment.name!r} was deployed; {page}"
    none_serves = f"no version of the environment {environment.name!r} serves"
    if build.state == "failed":
        why = " ".join((build.error_message or "").split())[:_SHOWN_ERROR]
        return f"{none_serves}: the build of version {build.version} failed: {why}; mend that and deploy again ({page})"
    if build.state == "cancelled":
        return f"{none_serves}: the build of version {build.version} was cancelled; deploy it again ({page})"
    return f"{none_serves} yet: version {build.version} is being built; try again when that has ended ({page})"


async def environment_of_id(
    session: AsyncSession, caller: Caller, environment_id: UUID, *, lock: bool = False
) -> EnvironmentRow:
    """One that the caller's team may see. Raises NotFound."""
    query = select(EnvironmentRow).where(is_visible_to(caller.team_id), EnvironmentRow.id == environment_id)
    row = (await session.scalars(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no environment {environment_id}: it may have been removed; if .hud/config.json holds this id, "
            "delete that file"
        )
    return row
