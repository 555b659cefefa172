"""What was said in a rollout as one text: what its page shows, without the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import structlog

from server.rollouts.transcript import Part, Scene, build_transcript, readable
from server.values.sanitizing import storable_text
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import RecordedSpan, Rollout, read_recorded, resolve_rollout
from store.rollouts.unread import UnreadTrace, keep_text
from wire.errors import CorruptCheckpoint

log = structlog.get_logger(__name__)

_CALLS, _TOOL = "Calls ", "Tool "


async def read_text(database: AsyncDatabase, blobs: BlobStore, trace: UnreadTrace) -> None:
    """Have the rollout found by what was said in it until now."""
    found = await read_recorded(database, blobs, trace.team_id, trace.id, arrays=False)
    if found is None:
        return
    text = await asyncio.to_thread(text_of, *found)
    async with database.connection() as connection:
        await keep_text(connection, trace, text)


async def pass_over(database: AsyncDatabase, trace: UnreadTrace, error: Exception) -> None:
    """A rollout that cannot be read is found by no text until something new comes of it."""
    reason = error.message if isinstance(error, CorruptCheckpoint) else str(error)
    log.error("rollout_not_searchable", trace_id=str(trace.id), reason=reason[:200])
    async with database.connection() as connection:
        await keep_text(connection, trace, "")


def text_of(rollout: Rollout, spans: Sequence[RecordedSpan]) -> str:
    """Task, error and evaluation first, then whatever was said, in order."""
    transcript = build_transcript(resolve_rollout(rollout), (), spans)
    trace = rollout.trace
    facts = (trace.task_slug, trace.stop_reason, trace.error)
    result = readable(trace.evaluation_result) if trace.evaluation_result else None
    said = (text for scene in transcript.scenes for text in _said(scene))
    return storable_text("\n".join(filter(None, (*facts, result, *said))))


def _said(scene: Scene) -> Iterator[str]:
    if scene.title.startswith(_TOOL):
        yield scene.title.removeprefix(_TOOL)
    for part in scene.parts:
        yield from _of_part(part)


def _of_part(part: Part) -> Iterator[str]:
    if part.label.startswith(_CALLS):
        yield part.label.removeprefix(_CALLS)
    if part.is_error:
        yield part.label
    yield part.text
