"""Tasksets as HUD's CLI makes and reads them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class TasksetRequest(BaseModel):
    """A taskset without tasks."""

    name: str
    project_id: str | None = None


class ExportedTask(BaseModel):
    """A task as it was uploaded, with the names that its reader expects: `scenario` is the `task_id`."""

    model_config = ConfigDict(extra="allow")

    name: str
    env: str
    scenario: str
    args: dict[str, Any]


class TasksetExport(BaseModel):
    """A taskset with all its tasks, in the order of their first upload."""

    name: str
    tasks: list[ExportedTask]
