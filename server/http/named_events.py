"""Server-sent events that each carry a JSON object under the name of its `type`, as OpenAI's responses and Anthropic's
messages stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import structlog

from wire.errors import HeadwayError
from wire.process.closing_stream import ClosingStream

log = structlog.get_logger(__name__)

Event = dict[str, Any]
Events = AsyncGenerator[Event]
Broken = Callable[[int, str, str, str | None], Event]
"""The event with which a stream ends that breaks: of a refusal's status, code, sentence and field."""


class NamedEvents(ClosingStream):
    """A stream that stops the sampler as soon as it ends. `first` was awaited before anything is sent, so that errors
    until then keep their status."""

    def __init__(self, first: Event, rest: Events, headers: Mapping[str, str], broken: Broken) -> None:
        headers = {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_written(first, rest, broken), rest, media_type="text/event-stream", headers=headers)


async def _written(first: Event, rest: Events, broken: Broken) -> AsyncGenerator[str]:
    yield _event(first)
    try:
        async for event in rest:
            yield _event(event)
    except HeadwayError as error:
        yield _event(broken(error.status, error.code, error.message, error.param))
    except Exception as error:
        log.error("stream_broken", exc_info=error)
        yield _event(broken(500, "internal", "internal error", None))


def _event(event: Event) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event, allow_nan=False)}\n\n"
