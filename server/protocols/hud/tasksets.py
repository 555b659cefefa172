"""`/v2/tasksets`: what `hud sync` and `Taskset.from_api` call."""

from __future__ import annotations

import json
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from fastapi.responses import Response

from server.http.authentication import CallerDep, EnvironmentReaderDep
from server.http.context import ContextDep
from server.http.page_parameters import DEFAULT_LIMIT, CursorParam, LimitParam
from server.http.request_body import UPLOAD
from server.protocols.hud import projects
from server.protocols.hud.projects import Project, ProjectPage, ProjectRequest
from server.protocols.hud.shared.openapi import json_body
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.taskset_schemas import TasksetExport, TasksetRequest
from server.tasksets import service
from server.tasksets.types import (
    TaskRemoved,
    Taskset,
    TasksetDeleted,
    TasksetName,
    TasksUpload,
    UploadDone,
)
from server.tasksets.uploads import read_upload
from server.values.paging import Page
from wire.process.off_loop import off_loop

router = HudRouter(tags=["tasksets"])


@router.get("/v2/tasksets")
async def list_tasksets(
    context: ContextDep, caller: CallerDep, cursor: CursorParam = None, limit: LimitParam = DEFAULT_LIMIT
) -> Page[Taskset]:
    """The team's tasksets, newest first."""
    async with context.database.session() as session:
        return await service.list_tasksets(session, caller, cursor, limit)


@router.post("/v2/tasksets", status_code=201)
async def create_taskset(context: ContextDep, caller: CallerDep, body: TasksetRequest) -> Taskset:
    """A taskset without tasks."""
    projects.refuse_other_project(caller, body.project_id)
    async with context.database.session() as session:
        return await service.create(session, caller, body.name)


@router.get("/v2/tasksets/by-name/{name:path}")
async def get_by_name(context: ContextDep, caller: CallerDep, name: str) -> TasksetName:
    """What the team calls by a name."""
    async with context.database.session() as session:
        return await service.named(session, caller, name)


@router.get("/v2/tasksets/{taskset_id}")
async def get_taskset(context: ContextDep, caller: CallerDep, taskset_id: UUID) -> Taskset:
    """One taskset, without its tasks."""
    async with context.database.session() as session:
        return await service.get_taskset(session, caller, taskset_id)


@router.get("/v2/tasksets/{taskset_id}/export", response_model=TasksetExport)
async def export_taskset(context: ContextDep, caller: CallerDep, taskset_id: UUID) -> Response:
    """One taskset with all its tasks, each as it was uploaded."""
    async with context.database.session() as session:
        name, contents = await service.export(session, caller, taskset_id)
    body = await off_loop(sum(map(len, contents)), _exported, name, contents)
    return Response(body, media_type="application/json")


@router.delete("/v2/tasksets/{taskset_id}")
async def delete_taskset(context: ContextDep, caller: CallerDep, taskset_id: UUID) -> TasksetDeleted:
    """Delete a taskset with its tasks. Jobs that ran over it stay."""
    async with context.database.session() as session:
        return await service.delete(session, caller, taskset_id)


@router.delete("/v2/tasksets/{taskset_id}/tasks/{name:path}")
async def remove_task(context: ContextDep, caller: CallerDep, taskset_id: UUID, name: str) -> TaskRemoved:
    """Remove one task, by its slug. (`hud sync` adds and replaces, and leaves alone what it does not know.)"""
    async with context.database.session() as session:
        return await service.remove(session, caller, taskset_id, name)


@router.post("/v2/tasks/upload", openapi_extra=json_body(TasksUpload), dependencies=[Depends(UPLOAD)])
async def upload_tasks(context: ContextDep, caller: CallerDep, request: Request) -> UploadDone:
    """Add tasks to a taskset, or replace those of the same name."""
    upload = await read_upload(context.upload_parser, await request.body())
    projects.refuse_other_project(caller, upload.project_id)
    async with context.database.session() as session:
        return await service.upload(session, caller, upload)


@router.get("/v2/projects")
async def list_projects(
    caller: EnvironmentReaderDep,
    search: Annotated[str, Query(max_length=500)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> ProjectPage:
    """The team's one project."""
    return projects.projects(caller, search, offset)


@router.post("/v2/projects")
async def create_project(caller: CallerDep, body: ProjectRequest) -> Project:
    """Answers with the team's one project; no other is made."""
    return projects.create_project(caller, body.name)


@router.get("/v2/projects/{project_id}")
async def get_project(caller: EnvironmentReaderDep, project_id: UUID) -> Project:
    """The team's project."""
    return projects.get_project(caller, project_id)


def _exported(name: str, contents: list[str]) -> bytes:
    return f'{{"name":{json.dumps(name)},"tasks":[{",".join(contents)}]}}'.encode()
