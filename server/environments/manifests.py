"""What a version of an environment offers, as its own code says it: `tasks` with the schemas of their arguments, and
`capabilities`. It comes from users' code: bounded, and read with care."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from server.environments.argument_schemas import first_misfit
from server.values.sanitizing import storable_json
from wire.errors import InvalidRequest

_MAX_BYTES = 4 * 1024**2
_SHOWN_TASKS = 20


def checked_manifest(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """The manifest as it is stored. Raises InvalidRequest for what is none."""
    if manifest is None:
        raise InvalidRequest("the environment was built, and its runner sent no manifest of it; deploy it again")
    tasks, capabilities = manifest.get("tasks"), manifest.get("capabilities", [])
    if not _named(tasks, "id") or not _named(capabilities, "name"):
        raise InvalidRequest("the environment's manifest is none: every task has an id, every capability a name")
    kept = storable_json({"tasks": tasks, "capabilities": capabilities}, "the environment's manifest")
    num_bytes = len(json.dumps(kept))
    if num_bytes > _MAX_BYTES:
        raise InvalidRequest(f"the environment's manifest takes {num_bytes} bytes, and at most {_MAX_BYTES} are kept")
    return kept


def check_task(manifest: Mapping[str, Any] | None, name: str, task_id: str, args: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a task that the environment does not have, or whose arguments do not fit its schema.
    `name`: of the environment, for the sentence."""
    tasks = cast(list[dict[str, Any]], (manifest or {}).get("tasks", []))
    found = next((task for task in tasks if task["id"] == task_id), None)
    if found is None:
        has = ", ".join(repr(task["id"]) for task in tasks[:_SHOWN_TASKS]) or "none"
        more = ", …" if len(tasks) > _SHOWN_TASKS else ""
        raise InvalidRequest(f"the environment {name!r} has no task {task_id[:200]!r}; it has: {has}{more}")
    misfit = first_misfit(args, found.get("args"))
    if misfit:
        raise InvalidRequest(f"the task {task_id!r} of the environment {name!r} does not take these args: {misfit}")


def _named(entries: Any, key: str) -> bool:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return False
    items = cast(Sequence[Any], entries)
    return all(isinstance(entry, dict) and isinstance(cast(dict[str, Any], entry).get(key), str) for entry in items)
