"""Keys as operators and team admins read and make them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from server.values.closed_requests import Closed
from server.values.texts import Name

RoleName = Literal["viewer", "member", "team_admin", "admin", "runner"]
ScopeName = Literal["read", "sample", "train", "deploy", "keys", "runner", "admin"]


class Key(BaseModel):
    """A key without its secret. `prefix`: the characters by which people recognise it."""

    id: UUID
    team_id: UUID
    team: str
    name: str
    prefix: str
    role: RoleName
    scopes: list[ScopeName]
    model_ids: list[UUID] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    replaces_id: UUID | None


class NewKey(Key):
    """A key that was just made. `key` is shown this once; `tinker_key` is the same one as the Tinker SDK takes it."""

    key: str
    tinker_key: str


class KeyRequest(Closed):
    """A new key. `scopes`: fewer than the role's; `models`: ids or names of the only models that it opens."""

    name: Name
    role: RoleName = "member"
    scopes: Annotated[list[ScopeName], Field(fail_fast=True)] | None = None
    models: Annotated[list[str], Field(fail_fast=True)] | None = Field(default=None, min_length=1, max_length=1000)
    expires_at: AwareDatetime | None = None


class RotateRequest(Closed):
    """For how long the old key goes on working."""

    grace_s: float = Field(default=24 * 3600.0, ge=0, le=30 * 24 * 3600.0)
