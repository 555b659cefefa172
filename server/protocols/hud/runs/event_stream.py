"""A run's events as server-sent events: `id` is the event's number, `event` its kind, `data` the event as JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Request

from server.runs.following import RunFollower
from server.runs.types import RunEvent
from wire.errors import InvalidRequest
from wire.process.closing_stream import ClosingStream

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_S = 15.0
"""After so long without an event a comment is sent, so that nothing on the way takes the connection for dead."""


def last_event_id(request: Request, after: int) -> int:
    """Where a client that connects again goes on. Raises InvalidRequest for what is no number of an event."""
    sent = request.headers.get("last-event-id")
    if sent is None:
        return after
    if not (sent.isdecimal() and sent.isascii() and int(sent) < 2**31):
        raise InvalidRequest(f"Last-Event-ID is {sent[:50]!r}: it must be the id of an event of this stream")
    return int(sent)


class RunEventStream(ClosingStream):
    """Ends with the run, with its client, or with the server: the client then connects again."""

    def __init__(self, follower: RunFollower, after: int) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        events = follower.events(after, KEEP_ALIVE_S)
        super().__init__(_text(events), events, media_type=EVENT_STREAM, headers=headers)


async def _text(events: AsyncGenerator[RunEvent | None]) -> AsyncGenerator[str]:
    async for event in events:
        yield _as_text(event) if event is not None else ": still here\n\n"


def _as_text(event: RunEvent) -> str:
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
