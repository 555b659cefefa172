"""Runs as clients read them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from server.runs.settings import HeldOut, RunConfig, StopRules
from server.values.closed_requests import Closed
from server.values.texts import Name, Tag

State = Literal["queued", "running", "pausing", "paused", "completed", "stopped", "failed", "cancelling", "cancelled"]


class Run(BaseModel):
    """A run and every setting with its value. `step`: how many steps are done. `reward`: of the newest.
    `checkpoint_id`: the newest node; null: the base weights. `waiting_for`: what keeps it from going on just now."""

    id: UUID
    name: str | None
    model_id: UUID
    model: str
    taskset: str
    num_tasks: int
    tags: list[str]
    config: RunConfig
    held_out: HeldOut | None
    stop: StopRules
    metadata: dict[str, Any]
    state: State
    step: int
    steps: int
    reward: float | None
    held_out_score: float | None
    best_held_out_score: float | None
    start_checkpoint_id: UUID | None
    checkpoint_id: UUID | None
    best_checkpoint_id: UUID | None
    job_id: UUID
    held_out_job_id: UUID | None
    error: str | None
    stop_reason: str | None
    waiting_for: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunChange(Closed):
    """What shall be different; what is not named stays. name: null for none. tags: all of them."""

    name: Name | None = None
    tags: Annotated[list[Tag], Field(fail_fast=True, max_length=20)] | None = None


class RunEvent(BaseModel):
    """Something that happened to a run."""

    seq: int
    at: datetime
    kind: str
    message: str
    data: dict[str, Any] | None


class RunEvents(BaseModel):
    """Events in order. `next_after`: hand it in as `after` to get what follows."""

    items: list[RunEvent]
    next_after: int


class RunMetrics(BaseModel):
    """What a step (`kind` step) or a held-out evaluation (eval) came to. `drops`: how often the held-out score has
    fallen in a row."""

    kind: Literal["step", "eval"]
    step: int
    at: datetime
    reward: float | None = None
    reward_std: float | None = None
    loss: float | None = None
    kl: float | None = None
    learning_rate: float | None = None
    checkpoint_id: UUID | None
    num_rollouts: int
    num_errors: int
    num_tokens: int | None = None
    groups_without_spread: int | None = None
    groups_dropped: int | None = None
    policy_lag_mean: float | None = None
    policy_lag_max: float | None = None
    rollout_s: float | None = None
    training_s: float | None = None
    score: float | None = None
    drops: int | None = None


class RunMetricsPage(BaseModel):
    """Rows by step; before the first step's comes the evaluation of the start."""

    items: list[RunMetrics]


class RolloutPlace(BaseModel):
    """Where a rollout of a step stands. `waits_for`: in words, for one that has not ended."""

    position: int
    task: str
    trace_id: UUID | None
    tries: int
    state: Literal["waiting", "queued", "running", "usable", "failed"]
    runner: str | None = None
    attempt: int | None = None
    reward: float | None = None
    error: str | None = None
    waits_for: str | None = None


class RunStep(BaseModel):
    """A step, or the held-out evaluation after it, as it stands now."""

    step: int
    kind: Literal["train", "held_out"]
    phase: str
    began_at: datetime
    rolled_out_at: datetime | None
    ended_at: datetime | None
    policy_checkpoint_id: UUID | None
    checkpoint_id: UUID | None
    chosen: list[dict[str, Any]]
    rollouts: list[RolloutPlace]
    waits_for: str | None


class RunDeleted(BaseModel):
    """Its rollouts stay, as a job's do."""

    events_deleted: int
    steps_deleted: int
