"""Tasksets as the SDK uploads and reads them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=512)]


class Environment(BaseModel):
    """Which environment a task runs in, by name."""

    name: Name


class UploadedTask(BaseModel):
    """One task. `name` is its slug, by which it is known in its taskset; `task_id` names the template in its
    environment. Whatever else a client says of a task comes back as it was sent."""

    model_config = ConfigDict(extra="allow")

    name: Name
    env: Environment
    task_id: Name
    args: dict[str, Any] | None = None
    validation: list[dict[str, Any]] | None = None
    agent_config: dict[str, Any] | None = None
    columns: dict[str, Any] | None = None
    runtime_config: dict[str, Any] | None = None
    verifier: dict[str, Any] | None = None


class TasksUpload(BaseModel):
    """Tasks to be added to a taskset, or to replace those of the same name; others stay. Without `taskset_id` the
    taskset of that name, which is made if there is none; with it the name does not matter."""

    taskset_name: str | None = None
    taskset_id: UUID | None = None
    project_id: str | None = None
    tasks: list[UploadedTask]


class UploadDone(BaseModel):
    """How many tasks are new, how many have another content than before, and how many have the same."""

    taskset_id: str
    tasks_created: int
    tasks_updated: int
    tasks_unchanged: int


class Taskset(BaseModel):
    """A taskset without its tasks. `num_bytes`: of its export. `can_edit`: with the key that asks."""

    id: UUID
    name: str
    project_id: UUID
    can_edit: bool
    num_tasks: int
    num_bytes: int
    created_at: datetime
    updated_at: datetime


class TasksetName(BaseModel):
    """What a name means."""

    taskset_id: str
    name: str


class TaskRemoved(BaseModel):
    """What is left."""

    taskset_id: str
    num_tasks: int


class TasksetDeleted(BaseModel):
    """How many tasks went with it."""

    tasks_deleted: int
