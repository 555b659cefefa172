"""Teams, their quotas and what they use, as operators and team admins read and write them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from server.values.closed_requests import Closed
from server.values.texts import Name

_MAX_BIG = 2**63 - 1
_MAX_INT = 2**31 - 1


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


class TeamContents(BaseModel):
    """What a team has. Its rollouts stay when it is removed, as long as retention keeps them; nobody sees them."""

    team: str
    num_models: int
    num_checkpoints: int
    num_live_runs: int
    num_rollouts: int
    num_keys: int
    num_tasksets: int
    num_environments: int


class TeamRequest(Closed):
    """A new team."""

    name: Name
    quotas: Quotas = Field(default_factory=Quotas)


class TeamChange(Closed):
    """What of a team shall change; quotas that are left out stay."""

    name: Name | None = None
    disabled: bool | None = None
    quotas: Quotas | None = None
