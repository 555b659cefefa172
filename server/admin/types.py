"""Teams, keys, quotas, planes and the audit log, as operators and team admins read and write them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from server.catalog.types import CatalogModel
from server.values.texts import Name

ItemT = TypeVar("ItemT")

_MAX_BIG = 2**63 - 1
_MAX_INT = 2**31 - 1

RoleName = Literal["viewer", "member", "team_admin", "admin"]
ScopeName = Literal["read", "sample", "train", "keys", "admin"]


class Closed(BaseModel):
    """A request in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[ItemT]):
    """Some of a list; `next_cursor` null: there is no more."""

    items: list[ItemT]
    next_cursor: str | None


class Quotas(Closed):
    """What a team may have; null: as much as it likes. Rollouts are requests under way at the gateway, tokens those of
    training batches as sent."""

    max_models: int | None = Field(default=None, ge=0, le=_MAX_INT)
    max_storage_bytes: int | None = Field(default=None, ge=0, le=_MAX_BIG)
    max_concurrent_rollouts: int | None = Field(default=None, ge=1, le=_MAX_INT)
    max_training_tokens_per_day: int | None = Field(default=None, ge=0, le=_MAX_BIG)


class Usage(BaseModel):
    """What a team uses. The tokens are those since 00:00 UTC; they start again at `resets_at`."""

    num_models: int
    storage_bytes: int
    training_tokens_today: int
    resets_at: datetime


class Team(BaseModel):
    """A team; while it is disabled its keys are refused."""

    id: UUID
    name: str
    created_at: datetime
    disabled_at: datetime | None
    quotas: Quotas


class TeamWithUsage(Team):
    """A team and what it uses."""

    usage: Usage


class TeamRequest(Closed):
    """A new team."""

    name: Name
    quotas: Quotas = Field(default_factory=Quotas)


class TeamChange(Closed):
    """What of a team shall change; quotas that are left out stay."""

    name: Name | None = None
    disabled: bool | None = None
    quotas: Quotas | None = None


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
    """A key that was just made. `key` is shown this once."""

    key: str


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


class TeamModel(CatalogModel):
    """A model of any team; null: a base."""

    team_id: UUID | None
    team: str | None


class BaseRequest(Closed):
    """A base model: its name in the catalog, and a Hugging Face id or the absolute path that its workers load."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    weights: str = Field(pattern=r"^(/|[A-Za-z0-9])[A-Za-z0-9._/@:+-]{0,999}$")


class Base(BaseModel):
    """A base model and who works on it. `shortage`: why nothing is trained; null while a trainer is ready."""

    id: UUID
    name: str
    weights: str
    created_at: datetime
    is_loaded: bool
    num_trainers: int
    num_samplers: int
    num_queued: int
    shortage: str | None


class Trainer(BaseModel):
    """A trainer process. `num_models`: those whose lease it holds."""

    id: UUID
    base: str
    host: str
    pid: int
    state: Literal["live", "loading", "silent", "stopped"]
    started_at: datetime
    heartbeat_at: datetime
    drained_at: datetime | None
    num_models: int


class Sampler(BaseModel):
    """A sampler process. `num_adapters`: those that it has loaded. `trouble`: why it can generate nothing."""

    id: UUID
    base: str
    host: str
    pid: int
    url: str
    backend: str
    state: Literal["live", "silent", "stopped"]
    started_at: datetime
    heartbeat_at: datetime
    drained_at: datetime | None
    num_adapters: int
    trouble: str | None = None


class Event(BaseModel):
    """One line of the audit log. `actor`: the key's name and first characters, `guard`, or `command line`."""

    id: int
    at: datetime
    team_id: UUID | None
    key_id: UUID | None
    actor: str
    action: str
    subject_id: UUID | None
    detail: dict[str, Any]
