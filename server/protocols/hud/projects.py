"""Projects, as far as the SDK's CLI asks for them: each team has one, which is the team."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from server.catalog.repository import as_uuid
from server.principals.callers import Caller
from wire.errors import InvalidRequest, NotFound

_NAME = "default"


class Capabilities(BaseModel):
    """What a key may do in a project."""

    create: bool


class Project(BaseModel):
    """Of each team there is one, which is the team."""

    id: str
    name: str
    is_default: bool
    capabilities: Capabilities


class ProjectRequest(BaseModel):
    """A project to be made."""

    name: str
    description: str | None = None


class ProjectPage(BaseModel):
    """All that the caller sees."""

    items: list[Project]
    total: int


def project_of(caller: Caller) -> Project:
    """The team's."""
    capabilities = Capabilities(create=not caller.scopes.isdisjoint({"train", "deploy"}))
    return Project(id=str(caller.team_id), name=_NAME, is_default=True, capabilities=capabilities)


def projects(caller: Caller, search: str, offset: int) -> ProjectPage:
    """Those whose name contains a text: one or none."""
    found = [project_of(caller)] if search.lower() in _NAME else []
    return ProjectPage(items=found[offset:], total=len(found))


def get_project(caller: Caller, project_id: UUID) -> Project:
    """Raises NotFound."""
    if project_id != caller.team_id:
        raise NotFound(_none(str(project_id)))
    return project_of(caller)


def create_project(caller: Caller, name: str) -> Project:
    """The team's, where that is what shall be made. Raises InvalidRequest for another."""
    if name.strip().lower() != _NAME:
        raise InvalidRequest(f"a team has one project, {_NAME!r}, which is the team; an operator makes more teams")
    return project_of(caller)


def refuse_other_project(caller: Caller, project_id: str | None) -> None:
    """Raises InvalidRequest for a project that is not the team's."""
    if project_id is not None and as_uuid(project_id) != caller.team_id:
        raise InvalidRequest(_none(project_id[:100]))


def _none(project_id: str) -> str:
    return f"there is no project {project_id!r}: a team has one, {_NAME!r}; leave --project and HUD_DEFAULT_PROJECT out"
