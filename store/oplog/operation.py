"""What a trainer sees of an operation and of its model: columns, detached from any session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that was started, or that is replayed."""

    id: UUID
    model_id: UUID
    sequence: int
    kind: str
    payload: bytes | None
    payload_blob: str | None
    forward_id: UUID | None
    attempts: int
    faults: int = 0
    plan: bytes | None = None
    """Of one that is replayed, `wire.plans` bytes. None: an earlier version carried it out."""
    metrics: Mapping[str, float] | None = None
    """Of one that is replayed without plan."""
    pictures: Sequence[str] | None = None
    """Names of those that were logged with its payload."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model as it stood when an operation was started. `head_step` is 0 where the base weights are the head."""

    id: UUID
    slug: str
    base_id: UUID
    lora: Mapping[str, Any]
    head_checkpoint_id: UUID | None
    head_version: int
    head_step: int
    head_is_thinned: bool = False
    """Without optimizer state: training goes on from it with fresh moments."""
