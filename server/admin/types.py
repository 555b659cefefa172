"""Models of all teams, bases and planes, as operators read and write them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from server.catalog.types import CatalogModel
from server.values.closed_requests import Closed


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
