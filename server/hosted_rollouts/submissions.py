"""What somebody wants to have rolled out here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from uuid import UUID

DEFAULT_TIMEOUT_S = 3600.0
MOST_TIMEOUT_S = 24 * 3600.0
"""Of one attempt; the time for which a client waits is not on the wire."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A whole rollout. `environment`: as the task names it. `agent_config`: as the SDK dumps it. `verifier`: a task
    whose evaluation replaces this one's. timeout_s: of one attempt; None: what `runtime_config` says, or an hour.
    `labels`: its runner has to have them."""

    trace_id: UUID
    job_id: UUID
    environment: str
    task: str
    agent_type: str
    agent_config: dict[str, Any]
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    slug: str | None = None
    group_id: str | None = None
    parent_trace_id: str | None = None
    verifier: dict[str, Any] | None = None
    runtime_config: dict[str, Any] | None = None
    priority: int = 0
    timeout_s: float | None = None
    max_attempts: int = 3
    labels: tuple[str, ...] = ()

    def digest(self) -> bytes:
        """The same for the same submission."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).digest()


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where in a run a rollout belongs. position: task of the step × size of a group + member."""

    run_id: UUID
    step: int
    purpose: Literal["train", "held_out"]
    position: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """`status`: what its trace says. is_new: no earlier call has submitted it."""

    trace_id: UUID
    status: str
    is_new: bool
