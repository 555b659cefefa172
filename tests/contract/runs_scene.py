"""An environment that is deployed, as rows, and what runs over it are asked for."""

from __future__ import annotations

import uuid
from typing import Any

from server.auth.service import ensure_team
from store.database import AsyncDatabase
from store.tables import EnvironmentBuildRow, EnvironmentRow

MANIFEST = {
    "tasks": [{"id": "sum", "args": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}],
    "capabilities": [],
}


async def deploy(database: AsyncDatabase, team: str, name: str = "sums") -> None:
    """A version of the environment that serves."""
    async with database.session() as session:
        team_id = await ensure_team(session, team)
        environment = EnvironmentRow(id=uuid.uuid4(), team_id=team_id, name=name, declared_name=name)
        build = EnvironmentBuildRow(id=uuid.uuid4(), team_id=team_id, state="succeeded", source="upload")
        build.environment_id, build.version, build.declared_name = environment.id, 1, name
        build.manifest, build.archive_blob, build.archive_bytes = MANIFEST, "0" * 64, 1
        session.add(environment)
        await session.flush()
        session.add(build)
        await session.flush()
        environment.current_build_id = build.id


def taskset(num_tasks: int = 4, **changes: Any) -> dict[str, Any]:
    """An inline one."""
    tasks = [{"env": "sums", "id": "sum", "args": {"a": n}, "slug": f"sum-{n}"} for n in range(num_tasks)]
    return {"name": "sums", "tasks": tasks, **changes}


def run_request(of: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A short run."""
    config = {"steps": 2, "group_size": 2, "tasks_per_step": 2, "max_tokens": 16, **changes.pop("config", {})}
    return {"model": of["id"], "taskset": taskset(), "config": config, **changes}
