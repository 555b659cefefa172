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


class Job(BaseModel):
    """A job as clients list it. `status`: running while one of its rollouts is, or none has begun; else completed."""

    id: str
    name: str | None
    taskset_id: str | None
    taskset_name: str | None
    group_size: int | None
    status: str
    pinned: bool
    created_at: datetime


class JobPage(BaseModel):
    """Newest first. `next_cursor`: hand it in as `cursor` to get the page behind this one; null: this was the last."""

    items: list[Job]
    total: int
    next_cursor: str | None


class Trace(BaseModel):
    """A rollout as clients read it.

    `status`: queued (for a runner), running, completed, error or cancelled, or whatever else its exit said.
    `timed_out`: it was silent without an exit, and reads as an error until one comes. `num_turns`: samples of its
    agent, as far as they are known. `prompt_tokens` counts each prompt whole. `flags` names what was
    odd about its uploads.
    """

    id: str
    job_id: str | None
    group_id: str | None
    task_slug: str | None
    parent_trace_id: str | None
    model: str | None
    model_id: str | None
    status: str
    timed_out: bool
    reward: float | None
    error: str | None
    stop_reason: str | None
    evaluation_result: dict[str, Any] | None
    created_at: datetime
    start_time: datetime
    end_time: datetime | None
    pinned: bool
    num_turns: int
    prompt_tokens: int
    output_tokens: int
    checkpoint_ids: list[str]
    flags: list[str]
    labels: list[str]
    num_comments: int


class ScoredTrace(BaseModel):
    """The forward whose logprobs the rollout has now."""

    trace_id: str
    model_id: str
    operation_id: str


class TracePage(BaseModel):
    """A job's rollouts, newest first."""

    items: list[Trace]
    total: int
    next_cursor: str | None


class TraceList(BaseModel):
    """Rollouts, newest first. `next_cursor`: as for jobs."""

    items: list[Trace]
    next_cursor: str | None


class CancelRequest(BaseModel):
    """Which rollout, and of which job."""

    trace_id: str | None = None
    job_id: str | None = None


class TraceCancelled(BaseModel):
    """`accepted`, or `not_found` where there is none that runs."""

    status: str


class JobCancelled(BaseModel):
    """How many rollouts were running."""

    cancelled: int


class CancelledJob(JobCancelled):
    """Of one job."""

    job_id: str


class JobsCancelled(BaseModel):
    """Every job of the team that had running rollouts."""

    jobs_cancelled: int
    total_tasks_cancelled: int
    job_details: list[CancelledJob]


class Deleted(BaseModel):
    """How many rollouts went, with all that was recorded of them."""

    traces_deleted: int


class Pin(BaseModel):
    """Whether retention leaves it alone."""

    pinned: bool
