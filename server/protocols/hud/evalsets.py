"""Tasksets and environments as hud-python 0.5 reads them. What it does besides speaks MCP, which nothing here does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import Depends
from pydantic import BaseModel

from server.environments.finding import deployed_environment
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.request_body import UPLOAD
from server.protocols.hud.shared.routing import HudRouter
from server.tasksets import service
from wire.errors import InvalidRequest

router = HudRouter(tags=["hud rl"])

_LONGEST_SLUG = 100
_NEWER = "this command of hud-python 0.5 is not offered; install hud 0.6.21, which has it as {command!r}"


class Evalset(BaseModel):
    """A taskset; `tasks` by their slugs."""

    evalset_id: str
    evalset_name: str
    tasks: dict[str, dict[str, Any]]


class McpConfig(BaseModel):
    """What hud-python 0.5 looks for in an environment: `scenarios` are its tasks, under both spellings of each."""

    name: str
    version: int | None
    scenarios: list[str]


@router.get("/tasks/evalset/{name:path}")
async def get_evalset(context: ContextDep, caller: CallerDep, name: str) -> Evalset:
    """A taskset by its name, with all its tasks."""
    async with context.database.session() as session:
        found = await service.named(session, caller, name)
        shown, contents = await service.export(session, caller, UUID(found.taskset_id))
    return _evalset(found.taskset_id, shown, contents)


@router.get("/tasks/evalsets/{taskset_id}/tasks-by-id")
async def get_tasks_by_id(context: ContextDep, caller: CallerDep, taskset_id: UUID) -> Evalset:
    """A taskset by its id, with all its tasks."""
    async with context.database.session() as session:
        shown, contents = await service.export(session, caller, taskset_id)
    return _evalset(str(taskset_id), shown, contents)


@router.get("/environments/{environment}/mcp-config")
async def get_mcp_config(context: ContextDep, caller: CallerDep, environment: str) -> McpConfig:
    """Whether an environment is deployed, and with which tasks."""
    async with context.database.session() as session:
        found = await deployed_environment(session, caller.team_id, environment)
    ids = [task["id"] for task in (found.build.manifest or {}).get("tasks", [])]
    names = dict.fromkeys((environment, found.environment.declared_name, found.environment.name))
    scenarios = [*ids, *(f"{one}:{task}" for one in names for task in ids)]
    return McpConfig(name=found.environment.name, version=found.build.version, scenarios=scenarios)


@router.post("/tasks/upload", dependencies=[Depends(UPLOAD)], include_in_schema=False)
@router.post("/tasks/resolve-evalset", dependencies=[Depends(UPLOAD)], include_in_schema=False)
async def upload_tasks(caller: CallerDep) -> None:
    """`hud sync tasks` of hud-python 0.5."""
    raise InvalidRequest(_NEWER.format(command="hud sync tasks"))


@router.post("/v1/rollouts/run_list", dependencies=[Depends(UPLOAD)], include_in_schema=False)
async def run_list(caller: CallerDep) -> None:
    """`hud eval --remote` of hud-python 0.5."""
    raise InvalidRequest(_NEWER.format(command="hud eval"))


def _evalset(taskset_id: str, name: str, contents: Sequence[str]) -> Evalset:
    return Evalset(
        evalset_id=taskset_id,
        evalset_name=name,
        tasks={task["name"]: _task(task) for task in map(json.loads, contents)},
    )


def _task(content: dict[str, Any]) -> dict[str, Any]:
    said = content["env"]
    environment, slug = said["name"] if isinstance(said, dict) else said, content["name"]
    prompt = (content.get("agent_config") or {}).get("system_prompt")
    return {
        "env": {"name": environment},
        "scenario": f"{environment}:{content['scenario']}",
        "slug": slug if len(slug) <= _LONGEST_SLUG else None,
        "args": content.get("args") or {},
        "agent_config": {"system_prompt": prompt} if prompt else None,
    }
