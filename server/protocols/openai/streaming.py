"""Server-sent events: the first chunk is awaited before anything is sent, so that errors keep their status."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import structlog

from server.protocols.openai.replies import Envelope, as_json
from server.protocols.openai.schemas import Completion
from server.protocols.openai.shared.errors import openai_error
from wire.errors import HeadwayError
from wire.process.closing_stream import ClosingStream

log = structlog.get_logger(__name__)

Chunks = AsyncGenerator[Completion]


class EventStream(ClosingStream):
    """A stream that stops the sampler as soon as it ends."""

    def __init__(self, envelope: Envelope, first: Completion, rest: Chunks) -> None:
        headers = {**envelope.headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(first, rest), rest, media_type="text/event-stream", headers=headers)


async def _events(first: Completion, rest: Chunks) -> AsyncGenerator[str]:
    yield _event(as_json(first))
    try:
        async for chunk in rest:
            yield _event(as_json(chunk))
        yield _event("[DONE]")
    except HeadwayError as error:
        yield _event(json.dumps(openai_error(error.status, error.code, error.message, error.param)))
    except Exception as error:
        log.error("stream_broken", exc_info=error)
        yield _event(json.dumps(openai_error(500, "internal", "internal error")))


def _event(data: str) -> str:
    return f"data: {data}\n\n"
