"""Deployments: an archive that was received becomes a version of an environment, which a runner builds.

A deployment is known by its build: sent again with the same body it is answered the same and nothing happens twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, actor_of, record
from server.environments.finding import checked_name
from server.environments.runtime_config import check_runtime_config
from server.environments.types import Deployment, Triggered
from server.principals.callers import Caller
from server.values.sanitizing import is_storable
from store.placements.queueing import enqueue
from store.tables import EnvironmentBuildRow, EnvironmentRow, PlacementRow
from wire.errors import FINAL, Conflict, HeadwayError, InvalidRequest, NotFound

BUILD_TIMEOUT_S = 1800.0
_MAX_VARIABLES_BYTES = 256 * 1024
IN_PROGRESS = "IN_PROGRESS"


class NameConflict(HeadwayError):
    """The environment that a deployment names by its id has another name."""

    status: ClassVar[int] = 409
    code: ClassVar[str] = "name_conflict"
    tries: ClassVar[int | None] = FINAL

    def __init__(self, message: str, existing_name: str, existing_id: UUID) -> None:
        super().__init__(message)
        self.existing_name, self.existing_id = existing_name, existing_id


@dataclass(frozen=True, slots=True)
class Version:
    """What shall become a version: whose, under which declared name, with which settings."""

    team_id: UUID | None
    declared_name: str
    variables: dict[str, str]
    runtime_config: dict[str, Any] | None


async def deploy(session: AsyncSession, caller: Caller, request: Deployment) -> Triggered:
    """Make a version of the upload, and have it built.

    Raises NotFound for an upload or an environment that the team has not, Conflict where the archive is missing or was
    deployed otherwise, NameConflict, InvalidRequest.
    """
    caller.require_whole_team("deploy an environment")
    _check(request)
    build = await _locked_build(session, caller, request.build_id)
    digest = _digest(request)
    if build.triggered_at is not None:
        if build.request_digest != digest or build.environment_id is None:
            raise Conflict("this upload was deployed already with other settings; run the deployment again")
        return Triggered(id=str(build.id), registry_id=build.environment_id, status=IN_PROGRESS)
    if build.state != "uploaded":
        raise Conflict("the archive has not been sent yet; PUT it to upload_url first")
    name = checked_name(request.name)
    if request.registry_id is not None:
        await _check_registry(session, caller, request.registry_id, name)
    build.request_digest, build.no_cache = digest, request.no_cache
    build.build_args, build.build_secrets = dict(request.build_args), dict(request.build_secrets)
    version = Version(
        caller.team_id, request.name, dict(request.environment_variables), check_runtime_config(request.runtime_config)
    )
    environment_id = await make_version(session, actor_of(caller), build, version)
    return Triggered(id=str(build.id), registry_id=environment_id, status=IN_PROGRESS)


async def make_version(session: AsyncSession, actor: Actor, build: EnvironmentBuildRow, version: Version) -> UUID:
    """Number the build in its environment, which is made where there is none, and queue it. The environment's id."""
    environment = await _locked_environment(session, version)
    variables = {**environment.variables, **version.variables}
    if sum(len(name) + len(value) for name, value in variables.items()) > _MAX_VARIABLES_BYTES:
        raise InvalidRequest(
            f"the environment's variables take more than {_MAX_VARIABLES_BYTES} bytes together; put large values into "
            "its files",
            param="environment_variables",
        )
    now = (await session.scalars(select(func.clock_timestamp()))).one()
    environment.variables, environment.updated_at, environment.removed_at = variables, now, None
    build.environment_id, build.version = environment.id, environment.next_version
    environment.next_version += 1
    build.declared_name, build.runtime_config = version.declared_name, version.runtime_config
    build.triggered_at, build.state = now, "queued"
    await session.flush()
    placement = PlacementRow(
        kind="build", team_id=version.team_id, build_id=build.id, timeout_s=BUILD_TIMEOUT_S, max_attempts=3
    )
    await enqueue(session, placement)
    detail = {"name": environment.name, "version": build.version, "variables": sorted(version.variables)}
    record(session, actor, "deploy_environment", team_id=version.team_id, subject_id=environment.id, **detail)
    return environment.id


def _check(request: Deployment) -> None:
    if request.runtime_provider == "modal":
        raise InvalidRequest(
            "runtime_provider cannot be 'modal': environments run on this box; leave --runtime out",
            param="runtime_provider",
        )
    texts = (*request.environment_variables.values(), *request.build_args.values(), *request.build_secrets.values())
    if not all(map(is_storable, texts)):
        raise InvalidRequest("a variable's value holds a NUL character or half a character; an environment takes none")
    check_runtime_config(request.runtime_config)


async def _locked_build(session: AsyncSession, caller: Caller, build_id: UUID) -> EnvironmentBuildRow:
    query = select(EnvironmentBuildRow).where(
        EnvironmentBuildRow.id == build_id, EnvironmentBuildRow.team_id == caller.team_id
    )
    build = (await session.scalars(query.with_for_update())).one_or_none()
    if build is None:
        raise NotFound(f"there is no upload {build_id}; run the deployment again, which makes another")
    return build


async def _check_registry(session: AsyncSession, caller: Caller, environment_id: UUID, name: str) -> None:
    """The environment that the client wants to rebuild is the one of the name."""
    own = select(EnvironmentRow).where(EnvironmentRow.team_id == caller.team_id)
    wanted = (await session.scalars(own.where(EnvironmentRow.id == environment_id))).one_or_none()
    if wanted is None:
        raise NotFound(
            f"the team {caller.team!r} has no environment {environment_id}: leave registry_id out, and if "
            ".hud/config.json holds this id, delete that file"
        )
    if wanted.name == name:
        return
    named = (await session.scalars(own.where(EnvironmentRow.name == name))).one_or_none() or wanted
    raise NameConflict(
        f"the environment {environment_id} is called {wanted.name!r}, and the code declares {name!r}: leave "
        "registry_id out to deploy by name, or rename it in the code",
        named.name,
        named.id,
    )


async def _locked_environment(session: AsyncSession, version: Version) -> EnvironmentRow:
    name = checked_name(version.declared_name)
    values = {"team_id": version.team_id, "name": name, "declared_name": version.declared_name}
    await session.execute(insert(EnvironmentRow).values(**values).on_conflict_do_nothing())
    query = select(EnvironmentRow).where(EnvironmentRow.name == name)
    query = query.where(
        EnvironmentRow.team_id.is_(None) if version.team_id is None else EnvironmentRow.team_id == version.team_id
    )
    return (await session.scalars(query.with_for_update().execution_options(populate_existing=True))).one()


def _digest(request: Deployment) -> bytes:
    return hashlib.sha256(json.dumps(request.model_dump(mode="json"), sort_keys=True).encode()).digest()
