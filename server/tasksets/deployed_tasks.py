"""Tasks of environments that are deployed here: each is one that its environment has, with arguments that it takes.
Tasks of other environments may be run elsewhere, and are taken as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from server.environments.finding import Deployed, find_deployed
from server.environments.manifests import check_task
from server.tasksets.uploads import Upload
from wire.environment_names import normalized_name
from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop


async def refuse_misfits(session: AsyncSession, team_id: UUID, upload: Upload) -> None:
    """Raises InvalidRequest, naming the row, for a task that its environment does not have or take."""
    deployed = await find_deployed(session, team_id, upload.environments)
    if deployed:
        num_bytes = sum(len(content) for _, content in upload.tasks)
        await off_loop(num_bytes, _check, deployed, upload.tasks)


def _check(deployed: Mapping[str, Deployed], tasks: Sequence[tuple[str, str]]) -> None:
    for index, (name, content) in enumerate(tasks):
        task = json.loads(content)
        try:
            _check_one(deployed, task["env"], task["scenario"], task["args"])
            if isinstance(verifier := task.get("verifier"), dict):
                _check_verifier(deployed, cast(dict[str, Any], verifier))
        except InvalidRequest as misfit:
            raise InvalidRequest(f"tasks[{index}] ({name!r}): {misfit.message}") from None


def _check_verifier(deployed: Mapping[str, Deployed], verifier: dict[str, Any]) -> None:
    environment, task, args = verifier.get("env"), verifier.get("id"), verifier.get("args") or {}
    if isinstance(environment, dict):
        environment = cast(dict[str, Any], environment).get("name")
    if isinstance(environment, str) and isinstance(task, str) and isinstance(args, dict):
        _check_one(deployed, environment, task, cast(dict[str, Any], args))


def _check_one(deployed: Mapping[str, Deployed], environment: str, task: str, args: Mapping[str, Any]) -> None:
    found = deployed.get(normalized_name(environment))
    if found is not None:
        check_task(found.build.manifest, found.environment.name, task, args)
