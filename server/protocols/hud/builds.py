"""`/v2/builds`: what `hud deploy` calls, and the same without `/v2` for its client of 0.5.41."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from server.catalog.repository import as_uuid
from server.environments.builds import ENDED
from server.environments.deploying import NameConflict, deploy
from server.environments.registry import BEGINNING, build_status, get_build, log_lines, status_word
from server.environments.types import BuildStatus, Deployment, Triggered, UploadUrl
from server.environments.uploads import begin_upload, check_token, receive_upload
from server.http.access import Access
from server.http.authentication import DeployerDep, EnvironmentReaderDep, caller_of_socket
from server.http.context import Context, ContextDep
from server.http.disconnects import body_chunks
from server.http.request_body import COUNTED_BY_ITS_READER
from server.http.sockets import close_reason, until_closed
from server.principals.callers import Caller
from server.protocols.hud import projects
from server.protocols.hud.shared.routing import HudRouter
from store.notify import BUILD_CHANGED
from wire.errors import HeadwayError, NotFound, Unauthenticated

router = HudRouter(tags=["environments"])
legacy = HudRouter(include_in_schema=False)

_ROUTE = "upload_archive"
_LINES = 500
_POLL_S = 5.0
_ACCESS_DENIED = 4003
_WORDS = {
    "queued": "Waiting for a runner to build it",
    "building": "A runner builds it",
}


class Uploaded(BaseModel):
    """How large the archive is."""

    num_bytes: int


class UploadLink(Access):
    """The address of an upload, which is a credential; keys that come with it are ignored."""

    async def admit(self, request: Request) -> None:
        build_id = as_uuid(request.path_params["build_id"])
        if build_id is None:
            raise NotFound("there is no such upload; run the deployment again, which makes another")
        context: Context = request.app.state.context
        async with context.database.session() as session:
            await check_token(session, build_id, request.query_params.get("token", ""))

    async def __call__(self) -> None:
        """See the class."""


@router.post("/v2/builds/upload-url")
@legacy.post("/builds/upload-url")
async def upload_url(context: ContextDep, caller: DeployerDep, request: Request) -> UploadUrl:
    """A build, and where to PUT its archive within an hour."""
    async with context.database.session() as session:
        build_id, token = await begin_upload(session, caller)
    url = request.url_for(_ROUTE, build_id=str(build_id)).include_query_params(token=token)
    return UploadUrl(build_id=str(build_id), upload_url=str(url))


@router.put(
    "/v2/builds/{build_id}/archive",
    name=_ROUTE,
    dependencies=[Depends(UploadLink()), Depends(COUNTED_BY_ITS_READER)],
    openapi_extra={"requestBody": {"required": True, "content": {"application/gzip": {"schema": {"type": "string"}}}}},
)
async def upload_archive(
    context: ContextDep, request: Request, build_id: UUID, token: Annotated[str, Query(max_length=200)]
) -> Uploaded:
    """The archive of a build: a gzip tar."""
    chunks, most = body_chunks(request, "the archive"), context.settings.limits.environment_bytes
    num_bytes = await receive_upload(context.database, context.blobs, build_id, token, chunks, most)
    return Uploaded(num_bytes=num_bytes)


@router.post("/v2/builds/trigger")
async def trigger(context: ContextDep, caller: DeployerDep, body: Deployment) -> Triggered:
    """Make a version of the uploaded archive, and have a runner build it."""
    return await _trigger(context, caller, body)


@legacy.post("/builds/trigger", response_model=Triggered)
async def trigger_by_old_client(context: ContextDep, caller: DeployerDep, body: Deployment) -> Any:
    """As above; offers to link what has the name already."""
    try:
        return await _trigger(context, caller, body)
    except NameConflict as conflict:
        existing = {"existing_name": conflict.existing_name, "existing_registry_id": str(conflict.existing_id)}
        detail = {"message": conflict.message, **existing}
        return JSONResponse({"detail": detail, "code": conflict.code}, conflict.status)


@router.get("/v2/builds/{build_id}/status")
@legacy.get("/builds/{build_id}/status")
async def status(context: ContextDep, caller: EnvironmentReaderDep, build_id: UUID) -> BuildStatus:
    """How a build stands."""
    async with context.database.session() as session:
        return await build_status(session, caller, build_id)


@router.websocket("/v2/builds/{build_id}/logs")
@legacy.websocket("/builds/{build_id}/logs")
async def logs(websocket: WebSocket, build_id: str) -> None:
    """All lines that a build wrote, from the first one, and those that it writes until it ends."""
    context: Context = websocket.app.state.context
    try:
        key = websocket.query_params.get("api_key")
        if not key:
            raise Unauthenticated("no API key: send it as api_key in the query")
        caller = await caller_of_socket(websocket, key, "read", "deploy")
    except HeadwayError as refused:
        await websocket.accept()
        await websocket.close(_ACCESS_DENIED, close_reason(refused.message))
        return
    await websocket.accept()
    async with context.shutdown.waiting():
        if await until_closed(websocket, _send_log(websocket, context, caller, build_id)):
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client was faster
                await websocket.close()


async def _trigger(context: Context, caller: Caller, body: Deployment) -> Triggered:
    projects.refuse_other_project(caller, body.project_id)
    async with context.database.session() as session:
        return await deploy(session, caller, body)


async def _send_log(websocket: WebSocket, context: Context, caller: Caller, given_id: str) -> None:
    build_id = as_uuid(given_id)
    if build_id is None:
        await _send(websocket, type="error", error=f"there is no build {given_id[:100]!r}")
        return
    place, shown_state = BEGINNING, ""
    with context.listener.subscribe(BUILD_CHANGED, str(build_id)) as changed:
        while True:
            try:
                async with context.database.session() as session:
                    build = await get_build(session, caller, build_id)
                    lines = await log_lines(session, build_id, place, _LINES)
            except NotFound as refused:
                await _send(websocket, type="error", error=refused.message)
                return
            if build.state != shown_state and build.state in _WORDS:
                await _send(websocket, type="status", message=_WORDS[build.state])
            shown_state = build.state
            for line in lines:
                await _send(websocket, type="log", message=line.message, timestamp=line.at_ms)
                place = line.place
            if build.state in ENDED and len(lines) < _LINES:
                message = build.error_message or f"Version {build.version} is built and serves"
                await _send(websocket, type="complete", final_status=status_word(build), message=message)
                return
            if len(lines) < _LINES:
                await changed.wait(_POLL_S)


async def _send(websocket: WebSocket, **frame: Any) -> None:
    await websocket.send_text(json.dumps(frame))
