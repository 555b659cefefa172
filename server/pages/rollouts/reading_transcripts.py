"""A rollout's transcript with those of its pictures that can be shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server.http.context import Context
from server.rollouts.transcript import Transcript, build_transcript
from store.rollouts import RecordedSpan, Resolved, Rollout
from store.rollouts.pictured import pictures_of_trace


async def read_transcript(
    context: Context, rollout: Rollout, resolved: Resolved, spans: Sequence[RecordedSpan]
) -> Transcript:
    """The names of pictures are only asked for where there are any: most rollouts have none."""
    samples = (*rollout.reported, *rollout.others)
    transcript = await asyncio.to_thread(build_transcript, resolved, samples, spans)
    if not any(part.pictures for scene in transcript.scenes for part in scene.parts):
        return transcript
    async with context.database.connection() as connection:
        names = await pictures_of_trace(connection, rollout.trace.team_id, rollout.trace.id)
    return await asyncio.to_thread(build_transcript, resolved, samples, spans, names)
