"""OpenAI's objects of fine-tuning."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel

from server.fine_tuning.types import Job, JobCheckpoint
from server.protocols.openai.files.schemas import FILE
from server.protocols.openai.shared.platform_routes import shown_id
from server.runs.types import RunEvent, State

JOB, EVENT, CHECKPOINT = "ftjob-", "ftevent-", "ftckpt-"
Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ItemT = TypeVar("ItemT")

_STATUS: dict[State, Status] = {
    "queued": "queued",
    "running": "running",
    "pausing": "running",
    "paused": "paused",
    "completed": "succeeded",
    "stopped": "succeeded",
    "failed": "failed",
    "cancelling": "running",
    "cancelled": "cancelled",
}
_METRICS = ("step", "eval")
_NAMED = ("started", "paused", "resumed", "stopped", "failed", "cancelled")
"""Kinds without which their message says little: OpenAI's events have none."""
_LEVELS = {"warning": "warn", "failed": "error"}


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobObject(BaseModel):
    """A fine-tuning job. `fine_tuned_model`: once it has succeeded."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    error: JobError | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str] = []
    trained_tokens: int | None
    seed: int
    estimated_finish: int | None = None
    integrations: list[Any] = []
    metadata: dict[str, str]


class EventObject(BaseModel):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class CheckpointObject(BaseModel):
    """A checkpoint of a job. `fine_tuned_model_checkpoint` is a name that chats take as their `model`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int


class Objects(BaseModel, Generic[ItemT]):
    """Some of a list; `has_more`: others follow after the last."""

    object: Literal["list"] = "list"
    data: list[ItemT]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


def job_object(job: Job, tokens: int, team_id: UUID) -> JobObject:
    """A job as OpenAI's clients read it."""
    run, details = job.run, job.details
    status = _STATUS[run.state]
    is_over = run.ended_at is not None
    method: dict[str, Any] = details.method.get(details.method["type"]) or {}
    return JobObject(
        id=shown_id(JOB, run.id),
        created_at=int(run.created_at.timestamp()),
        finished_at=int(run.ended_at.timestamp()) if run.ended_at else None,
        model=details.model,
        fine_tuned_model=run.model if status == "succeeded" else None,
        organization_id=f"org-{team_id.hex}",
        status=status,
        error=JobError(code="run_failed", message=run.error or "") if status == "failed" else None,
        hyperparameters=method.get("hyperparameters", {}),
        method=details.method,
        training_file=shown_id(FILE, details.training_file),
        validation_file=shown_id(FILE, details.validation_file) if details.validation_file else None,
        trained_tokens=tokens if is_over else None,
        seed=details.seed,
        metadata=details.metadata,
    )


def event_object(job: Job, event: RunEvent) -> EventObject:
    """An event as OpenAI's clients read it."""
    return EventObject.model_validate(
        {
            "id": f"{shown_id(EVENT, job.run.id)}-{event.seq}",
            "created_at": int(event.at.timestamp()),
            "level": _LEVELS.get(event.kind, "info"),
            "message": f"{event.kind}: {event.message}" if event.kind in _NAMED else event.message,
            "type": "metrics" if event.kind in _METRICS else "message",
            "data": event.data or {},
        }
    )


def checkpoint_object(job: Job, checkpoint: JobCheckpoint, name: str) -> CheckpointObject:
    """A checkpoint as OpenAI's clients read it."""
    return CheckpointObject(
        id=shown_id(CHECKPOINT, checkpoint.id),
        created_at=int(checkpoint.created_at.timestamp()),
        fine_tuned_model_checkpoint=name,
        fine_tuning_job_id=shown_id(JOB, job.run.id),
        metrics={"step": checkpoint.step, **checkpoint.metrics},
        step_number=checkpoint.step,
    )
