"""An upload of tasks, read and checked. A task that this server takes is one that the SDK can read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from server.tasksets.types import TasksUpload, UploadedTask
from server.uploads.upload_parser import UploadParser
from server.values.sanitizing import is_storable
from server.values.validation_messages import first_problem
from wire.environment_names import normalized_name
from wire.errors import InvalidRequest, TooLarge

MAX_TASKS = 100_000
MAX_TASK_BYTES = 1024**2
MAX_TASKSET_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Upload:
    """`tasks`: name and content of each, no name twice. `environments`: the normalized names that any of them says."""

    taskset_name: str | None
    taskset_id: UUID | None
    project_id: str | None
    tasks: Sequence[tuple[str, str]]
    environments: frozenset[str] = frozenset()


async def read_upload(parser: UploadParser, body: bytes) -> Upload:
    """The upload in a JSON text. Raises InvalidRequest and TooLarge, naming the task."""
    return await parser.read(body, _read)


def _read(body: bytes) -> Upload:
    try:
        upload = TasksUpload.model_validate(json.loads(body))
    except ValidationError as error:
        raise InvalidRequest(first_problem(error.errors())) from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if len(upload.tasks) > MAX_TASKS:
        raise TooLarge(f"the upload has {len(upload.tasks)} tasks; a taskset takes {MAX_TASKS}: make several")
    tasks = dict[str, str]()
    for index, task in enumerate(upload.tasks):
        if task.name in tasks:
            raise InvalidRequest(f"tasks[{index}].name: {task.name!r} is there twice; give each task its own slug")
        tasks[task.name] = _content(task, index)
    environments = frozenset(name for task in upload.tasks for name in _environments(task))
    return Upload(upload.taskset_name, upload.taskset_id, upload.project_id, list(tasks.items()), environments)


def _content(task: UploadedTask, index: int) -> str:
    """The task as it is exported. Floats and the order of keys stay as they came."""
    if not is_storable(task.name):
        raise InvalidRequest(f"tasks[{index}].name holds a character that cannot be stored; choose another slug")
    said: dict[str, Any] = {name: value for name, value in _fields(task).items() if value is not None}
    named = {"name": task.name, "env": task.env.name, "scenario": task.task_id, "args": task.args or {}}
    try:
        content = json.dumps({**said, **named}, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"tasks[{index}] ({task.name!r}) holds NaN or an infinite number, which JSON does not have, or is nested "
            "too deeply; write the value as text"
        ) from None
    if len(content) > MAX_TASK_BYTES:
        raise TooLarge(
            f"tasks[{index}] ({task.name!r}) takes {len(content)} bytes, and at most {MAX_TASK_BYTES} are taken; keep "
            "large data with the environment and name it in args"
        )
    return content


def _environments(task: UploadedTask) -> Iterator[str]:
    yield normalized_name(task.env.name)
    verifier = (task.verifier or {}).get("env")
    named = verifier.get("name") if isinstance(verifier, dict) else verifier
    if isinstance(named, str):
        yield normalized_name(named)


def _fields(task: UploadedTask) -> dict[str, Any]:
    kept = {
        name: getattr(task, name) for name in ("validation", "agent_config", "columns", "runtime_config", "verifier")
    }
    return {**(task.model_extra or {}), **kept}
