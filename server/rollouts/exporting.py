"""Streams recorded rollouts as a file: newest first, in portions, without holding a connection between portions.

A file that was not finished must not pass for a whole one. So a failure half way cuts the connection: a chunked answer
without its last chunk is an error to every HTTP client, and a Parquet or gzip file without its end does not open.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Literal
from uuid import UUID

import structlog

from server.rollouts.formats import FORMATS, FormatName
from server.rollouts.formats.lines import Writer
from store.blob_stores import BlobStore
from store.blob_stores.threads import in_blob_thread
from store.database import AsyncDatabase
from store.rollouts import TraceFacts, TraceFilter, TracePage, count_traces, list_traces, resolve
from store.rollouts.comments import Comment, read_comments
from store.rollouts.pictured import have_pictures
from wire.errors import InvalidRequest

log = structlog.get_logger(__name__)

PicturesWanted = Literal["files", "none"]

_PAGE = 200
_PORTION_TOKENS = 1_000_000
"""Read at once, as far as one rollout does not have more. Twelve bytes each while they become text."""


async def count_wanted(database: AsyncDatabase, team_id: UUID, wanted: TraceFilter) -> int:
    """How many rollouts there are to export, for a progress bar."""
    async with database.connection() as connection:
        return await count_traces(connection, team_id, wanted)


async def wants_pictures(
    database: AsyncDatabase, team_id: UUID, wanted: TraceFilter, name: FormatName, pictures: PicturesWanted | None
) -> bool:
    """Whether the file has pictures in it. Raises InvalidRequest where the format has no place for them, or nothing
    was said about them and some of the rollouts have some."""
    if pictures == "none":
        return False
    if pictures == "files" and not FORMATS[name].takes_pictures:
        raise InvalidRequest(f"format={name} has no place for pictures: take headway or parquet, or say pictures=none")
    if pictures == "files" or name == "parquet":
        return True
    async with database.connection() as connection:
        if await have_pictures(connection, team_id, wanted):
            raise InvalidRequest(
                "some of these rollouts have pictures: say pictures=files for a tar with them (format=headway), or "
                "pictures=none for a file without"
            )
    return False


async def export(
    database: AsyncDatabase, blobs: BlobStore, team_id: UUID, wanted: TraceFilter, writer: Writer
) -> AsyncGenerator[bytes]:
    """The file in pieces. The first comes when the first portion was read, so that errors keep their status.

    Every rollout is written as it is when its portion is read. Those that begin after the export are not in it, and
    those deleted before their turn came are not either.
    """
    cursor, more, begun = None, True, False
    try:
        while more:
            page = await _page(database, team_id, wanted, cursor)
            for ids in _portions(page.traces):
                found = await resolve(database, blobs, team_id, ids, conversations=True)
                comments = await _comments(database, team_id, ids)
                rollouts = [
                    replace(found[trace_id], comments=tuple(comments.get(trace_id, ())))
                    for trace_id in ids
                    if trace_id in found
                ]
                pieces = writer.write(rollouts)
                while (piece := await in_blob_thread(blobs, next, pieces, None)) is not None:
                    if piece or not begun:  # empty, where the format leaves these out or waits for more
                        begun = True
                        yield piece
                if not begun:
                    begun = True
                    yield b""
            cursor, more = page.next_cursor, page.next_cursor is not None
        yield await in_blob_thread(blobs, writer.close)
    except Exception as error:
        log.error("export_broken", error=str(error).partition("\n")[0])
        raise


async def _page(database: AsyncDatabase, team_id: UUID, wanted: TraceFilter, cursor: str | None) -> TracePage:
    async with database.connection() as connection:
        return await list_traces(connection, team_id, wanted, limit=_PAGE, cursor=cursor)


async def _comments(database: AsyncDatabase, team_id: UUID, ids: Sequence[UUID]) -> dict[UUID, list[Comment]]:
    async with database.connection() as connection:
        return await read_comments(connection, team_id, ids)


def _portions(traces: Sequence[TraceFacts]) -> Iterator[list[UUID]]:
    """Ids of rollouts that are read together."""
    ids, num_tokens = list[UUID](), 0
    for trace in traces:
        size = trace.num_prompt_tokens + trace.num_output_tokens
        if ids and num_tokens + size > _PORTION_TOKENS:
            yield ids
            ids, num_tokens = [], 0
        ids.append(trace.id)
        num_tokens += size
    if ids:
        yield ids
