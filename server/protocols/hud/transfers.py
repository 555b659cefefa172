"""Recorded rollouts out of the service, and back in. Before the routes of one trace, whose ids these names are not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse

from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.disconnects import body_chunks
from server.http.request_body import COUNTED_BY_ITS_READER
from server.protocols.hud.shared.routing import HudRouter
from server.protocols.hud.trace_filters import FilterDep
from server.rollouts.exporting import PicturesWanted, count_wanted, export, wants_pictures
from server.rollouts.formats import FORMATS, FormatName
from server.rollouts.importing import ImportOptions, take_lines
from server.rollouts.transfer_types import ImportResult
from wire.process.closing_stream import ClosingStream

router = HudRouter(tags=["traces"])

PicturesQuery = Annotated[PicturesWanted | None, Query()]
FormatQuery = Annotated[FormatName, Query(alias="format")]


@router.get("/v2/traces/export", response_class=StreamingResponse)
async def export_traces(
    context: ContextDep,
    caller: CallerDep,
    wanted: FilterDep,
    name: FormatQuery = "headway",
    gzip: bool = False,
    pictures: PicturesQuery = None,
) -> StreamingResponse:
    """The rollouts that fit all filters, newest first, as one file. `X-Total-Count` says how many there are: formats
    made of text leave out those without text.

    pictures: `files` in a tar file with them, of `headway` alone, or `none`, which leaves names of them where the
    format has a place for these. It has to be said where some of the rollouts have pictures; Parquet has their bytes
    unless it is `none`.
    """
    chosen = FORMATS[name]
    with_pictures = await wants_pictures(context.database, caller.team_id, wanted, name, pictures)
    file = chosen.file(context.blobs, with_pictures=with_pictures, gzipped=gzip)
    total = await count_wanted(context.database, caller.team_id, wanted)
    pieces = export(context.database, context.blobs, caller.team_id, wanted, file.writer)
    first = await anext(pieces)
    headers = {
        "X-Total-Count": str(total),
        "Content-Disposition": f'attachment; filename="traces-{name}{file.suffix}"',
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
    return ClosingStream(_from(first, pieces), pieces, headers=headers, media_type=file.media_type)


@router.post(
    "/v2/traces/import",
    dependencies=[Depends(COUNTED_BY_ITS_READER)],
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
    },
)
async def import_traces(
    context: ContextDep,
    caller: CallerDep,
    request: Request,
    job: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    rescore: bool = False,
) -> ImportResult:
    """Rollouts from elsewhere, one JSON object a line (`format=headway`). Each is recorded whole or refused.

    job: the name of the job that they belong to, made where it is not there. rescore: what is on record with the same
    tokens takes the reward and the status of its line; without it, a line that says otherwise is refused.
    A key for some models refuses lines of others.
    """
    return await take_lines(
        context.database,
        context.blobs,
        context.upload_parser,
        context.pictures,
        context.settings.limits,
        caller,
        body_chunks(request, "the import"),
        ImportOptions(job, rescore),
    )


async def _from(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece
