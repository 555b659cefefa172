"""What answers a request."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.auth.callers import Caller
from server.catalog.types import ServingCheckpoint
from store.planes.serving import Sampler


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request, fixed when the request came: a promotion in between changes nothing.

    `serving` is the checkpoint as replies name it; None: the base weights. `caller`: whose key asked.
    """

    caller: Caller
    team_id: UUID
    model_id: UUID
    max_concurrent_rollouts: int | None
    slug: str
    base_id: UUID
    base_slug: str
    checkpoint_id: UUID | None
    serving: ServingCheckpoint | None
    adapter: str
    samplers: tuple[Sampler, ...]
