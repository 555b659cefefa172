"""What deploying takes, and how builds and environments are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from server.values.closed_requests import Closed
from wire.bounded import FEW_ENTRIES
from wire.environment_names import MAX_NAME

_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
_Value = Annotated[str, Field(max_length=64 * 1024)]
Variables = Annotated[dict[_Variable, _Value], FEW_ENTRIES]


class Deployment(Closed):
    """POST /v2/builds/trigger. `environment_variables`: secrets to set; those that it leaves out are kept."""

    source: Literal["direct"]
    build_id: UUID
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    no_cache: bool = False
    registry_id: UUID | None = None
    project_id: str | None = None
    runtime_provider: Literal["hud", "modal"] | None = None
    runtime_config: dict[str, Any] | None = None
    environment_variables: Variables = Field(default_factory=dict)
    build_args: Variables = Field(default_factory=dict)
    build_secrets: Variables = Field(default_factory=dict)


class UploadUrl(BaseModel):
    """Where to PUT the archive. The URL is its own credential."""

    build_id: str
    upload_url: str


class Triggered(BaseModel):
    """What a deployment became."""

    id: str
    registry_id: UUID
    status: str


class BuildStatus(BaseModel):
    """How a build stands. `status`: IN_PROGRESS, SUCCEEDED, FAILED, CANCELLED, or PENDING before it was triggered."""

    id: str
    status: str
    registry_id: UUID | None
    registry_name: str | None
    version: str | None
    error_message: str | None
    manifest: dict[str, Any] | None
    created_at: datetime
    ended_at: datetime | None


class Environment(BaseModel):
    """An environment that the team may run. `latest_version`: the one that serves; `everybody`: all teams may run
    it."""

    id: UUID
    name: str
    declared_name: str
    everybody: bool
    latest_version: str | None
    created_at: datetime
    updated_at: datetime


class EnvironmentPage(BaseModel):
    """Some of those that the caller sees, and how many there are."""

    items: list[Environment]
    total: int
