"""What answers a request."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.principals.callers import Caller
from store.planes.serving import Sampler


@dataclass(frozen=True, slots=True)
class ServedCheckpoint:
    """The node of the model's tree whose weights answer."""

    id: UUID
    name: str
    step: int


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request, fixed when the request came: a promotion in between changes nothing.

    checkpoint None: the base weights. `caller`: who asked. `samplers`: those that held the adapter at that moment.
    `reads_pictures`: chats may show it some.
    """

    caller: Caller
    team_id: UUID
    model_id: UUID
    max_concurrent_rollouts: int | None
    slug: str
    base_id: UUID
    base_slug: str
    checkpoint: ServedCheckpoint | None
    adapter: str
    samplers: tuple[Sampler, ...]
    reads_pictures: bool = False

    @property
    def weights(self) -> str:
        """What answers, in a sentence."""
        return self.checkpoint.name if self.checkpoint else "the base weights"
