"""`/v1/files`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Annotated, BinaryIO

from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse

from server.files import service
from server.files.incoming import IncomingFile
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.disconnects import body_chunks
from server.http.request_body import COUNTED_BY_ITS_READER
from server.http.routing import KeyedRouter
from server.protocols.openai.files.multipart import read_form
from server.protocols.openai.files.schemas import FILE, FileDeleted, FileList, FileObject, file_object
from server.protocols.openai.shared.platform_routes import PlatformRoute, id_of, shown_id
from server.uploads.storing import stored_or_refused
from store.blob_stores.threads import in_blob_thread
from wire.errors import InvalidRequest

router = KeyedRouter(prefix="/v1/files", tags=["files"], route_class=PlatformRoute)

_PIECE_BYTES = 256 * 1024
_FORM = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"type": "string", "enum": ["fine-tune"]},
        "file": {"type": "string", "format": "binary"},
    },
}


@router.post(
    "",
    dependencies=[Depends(COUNTED_BY_ITS_READER)],
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def create_file(context: ContextDep, caller: CallerDep, request: Request) -> FileObject:
    """Take a file of lines for fine-tuning: tasks of environments, conversations, or exported rollouts. A line that is
    wrong refuses the file, by its number."""
    with stored_or_refused("file"):
        draft = await in_blob_thread(context.blobs, context.blobs.draft)
        try:
            incoming = IncomingFile(draft, context.upload_parser, context.settings.limits)
            form = await read_form(request, body_chunks(request, "the file"), "file", incoming.write)
            _check_fields(form.fields)
            checked = await incoming.finish()
            blob = await in_blob_thread(context.blobs, draft.keep)
        finally:
            await asyncio.to_thread(draft.drop)
    async with context.database.session() as session:
        return file_object(await service.add(session, caller, form.filename or "file", blob, checked))


@router.get("")
async def list_files(
    context: ContextDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[service.Order, Query()] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> FileList:
    """The team's files."""
    if purpose not in (None, service.PURPOSE):
        return FileList(data=[], has_more=False)
    async with context.database.session() as session:
        place = (await service.find(session, caller, id_of(FILE, after))).id if after else None
        stored, has_more = await service.page(session, caller, place, limit, order)
    shown = [file_object(one) for one in stored]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return FileList(data=shown, has_more=has_more, first_id=first, last_id=last)


@router.get("/{file_id}")
async def get_file(context: ContextDep, caller: CallerDep, file_id: str) -> FileObject:
    """One file, without its content."""
    async with context.database.session() as session:
        return file_object(await service.find(session, caller, id_of(FILE, file_id)))


@router.get("/{file_id}/content", response_class=StreamingResponse)
async def get_content(context: ContextDep, caller: CallerDep, file_id: str) -> StreamingResponse:
    """What was uploaded, byte for byte."""
    async with context.database.session() as session:
        stored = await service.find(session, caller, id_of(FILE, file_id))
    headers = {"Content-Length": str(stored.num_bytes), "Cache-Control": "no-store"}
    file = await in_blob_thread(context.blobs, context.blobs.open, stored.blob)
    return StreamingResponse(_pieces(file), headers=headers, media_type="application/octet-stream")


@router.delete("/{file_id}")
async def delete_file(context: ContextDep, caller: CallerDep, file_id: str) -> FileDeleted:
    """Delete a file. Jobs that were made from it go on."""
    async with context.database.session() as session:
        return FileDeleted(id=shown_id(FILE, await service.delete(session, caller, id_of(FILE, file_id))))


def _check_fields(fields: Mapping[str, str]) -> None:
    service.check_purpose(fields.get("purpose"))
    if unknown := next((name[:100] for name in fields if name != "purpose"), None):
        raise InvalidRequest(f"{unknown} is not offered here; send purpose and file alone", param=unknown)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
