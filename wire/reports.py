"""What clients report about jobs and rollouts. Reports are kept as they come: unknown fields are not an error."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JobEntered(BaseModel):
    """A job begins."""

    name: str | None = None
    group: int | None = Field(default=None, ge=0, lt=2**31)
    taskset_id: str | None = None


class TraceEntered(BaseModel):
    """A rollout begins."""

    model_config = ConfigDict(extra="allow")

    job_id: str | None = None
    group_id: str | None = None
    parent_trace_id: str | None = None
    task_slug: str | None = None
    model: str | None = None


class TraceExited(BaseModel):
    """A rollout ended."""

    model_config = ConfigDict(extra="allow")

    status: str
    reward: float | None = None
    error: str | None = None
    stop_reason: str | None = None
    evaluation_result: dict[str, Any] | None = None


class TelemetryUpload(BaseModel):
    """Spans, kept as they come."""

    telemetry: list[dict[str, Any]]


class Job(BaseModel):
    """A job as clients list it."""

    id: str
    name: str | None
    status: str
    created_at: datetime


class JobPage(BaseModel):
    """Newest first."""

    items: list[Job]
    total: int


class Trace(BaseModel):
    """A rollout as clients read it."""

    id: str
    job_id: str | None
    status: str
    reward: float | None
    error: str | None
    stop_reason: str | None
    evaluation_result: dict[str, Any] | None
    created_at: datetime


class TracePage(BaseModel):
    """Newest first."""

    items: list[Trace]
    total: int
