"""Fine-tuning jobs as the core sees them: a run, and what was asked besides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from server.runs.types import Run

SOURCE = "fine_tuning"


class JobDetails(BaseModel):
    """What a run keeps of the job that it is. `model`: as it was asked for; `method`: as it was sent, with defaults."""

    model: str
    training_file: UUID
    validation_file: UUID | None
    method: dict[str, Any]
    seed: int
    metadata: dict[str, str]
    request_digest: str


@dataclass(frozen=True, slots=True)
class Job:
    """A fine-tuning job."""

    run: Run
    details: JobDetails


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """A checkpoint that a job's step made, and that can be sampled."""

    id: UUID
    name: str
    step: int
    created_at: datetime
    metrics: dict[str, float]
