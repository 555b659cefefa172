"""Downloads of adapters: links that work without a key, and what they lead to."""

from __future__ import annotations

from datetime import datetime
from email.utils import format_datetime

from fastapi import Request
from fastapi.responses import RedirectResponse, StreamingResponse

from server.checkpoint_names.adapter_files import ADAPTER_FILES, content
from server.checkpoint_names.links import FileLink, make_link, open_link
from server.checkpoint_names.path_files import have_path_files
from server.checkpoint_names.paths import TinkerPath
from server.checkpoint_names.resolving import resolve_path
from server.checkpoint_names.tar_archives import TarArchive
from server.http.access import ANYBODY
from server.http.authentication import CallerDep
from server.http.context import Context, ContextDep
from server.principals.callers import Caller
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply
from wire.errors import NotFound

router = TinkerRouter()

_CHECKPOINT = "/training_runs/{run}/checkpoints/{checkpoint_id:path}"
_ROUTE = "tinker_download"
_ARCHIVE = "checkpoint.tar"
_END_MARKER = "checkpoint_complete"
"""An empty file that older releases of the `tinker` command look for in an archive."""
_HEADERS = {"Cache-Control": "private, no-store", "X-Accel-Buffering": "no"}


class ExternalWeightsUrls(TinkerReply):
    """A URL for each file, which work without a key until they expire."""

    urls: dict[str, str]
    expires: datetime


@router.get(f"{_CHECKPOINT}/external_weights_urls")
async def external_weights_urls(
    context: ContextDep, caller: CallerDep, request: Request, run: str, checkpoint_id: str
) -> ExternalWeightsUrls:
    """The adapter's files in PEFT's layout."""
    link = await _link(context, caller, run, checkpoint_id)
    urls = {name: _url(request, link, name) for name in ADAPTER_FILES}
    return ExternalWeightsUrls(urls=urls, expires=link.expires_at)


@router.get(f"{_CHECKPOINT}/archive", response_class=RedirectResponse, status_code=302)
async def archive_url(
    context: ContextDep, caller: CallerDep, request: Request, run: str, checkpoint_id: str
) -> RedirectResponse:
    """The same files as one archive, as SDKs before 0.36 fetch them."""
    link = await _link(context, caller, run, checkpoint_id)
    expires = {"Expires": format_datetime(link.expires_at, usegmt=True)}
    return RedirectResponse(_url(request, link, _ARCHIVE), 302, expires)


@router.get("/files/{token}/{file_name}", name=_ROUTE, response_class=StreamingResponse, dependencies=[ANYBODY])
async def download(context: ContextDep, token: str, file_name: str) -> StreamingResponse:
    """What such a link leads to."""
    async with context.database.session() as session:
        checkpoint = await open_link(session, token)
    if file_name == _ARCHIVE:
        archive = TarArchive(await context.adapter_files.open(checkpoint, ADAPTER_FILES), _END_MARKER)
        headers = {**_HEADERS, "Content-Length": str(archive.size)}
        return StreamingResponse(archive.stream(), headers=headers, media_type="application/x-tar")
    if file_name not in ADAPTER_FILES:
        raise NotFound(f"an adapter has the files {', '.join(ADAPTER_FILES)}")
    (file,) = await context.adapter_files.open(checkpoint, [file_name])
    headers = {**_HEADERS, "Content-Length": str(file.size)}
    return StreamingResponse(content(file), headers=headers, media_type="application/octet-stream")


async def _link(context: Context, caller: Caller, run: str, checkpoint_id: str) -> FileLink:
    path = str(TinkerPath.of(run, checkpoint_id))
    await have_path_files(context.heads, caller, path, "reading")
    async with context.database.session() as session:
        found = await resolve_path(session, caller, path, "reading")
        return await make_link(session, caller, found)


def _url(request: Request, link: FileLink, name: str) -> str:
    return str(request.url_for(_ROUTE, token=link.token, file_name=name))
