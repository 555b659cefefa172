"""A streamed HTTP response that ends its source together with itself."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from starlette.responses import ContentStream, StreamingResponse
from starlette.types import Send


class Source(Protocol):
    """An async generator, or what holds one."""

    def aclose(self) -> Awaitable[Any]:
        """End it, wherever it is."""
        ...


class ClosingStream(StreamingResponse):
    """Closes `source` as soon as the response ends, for whatever reason: also when the client disconnects, and when
    nothing of the content was asked for yet. A generator that is only left is closed by some garbage collection, and
    until then holds what it holds.
    """

    def __init__(self, content: ContentStream, source: Source, **options: Any) -> None:
        super().__init__(content, **options)
        self._source = source

    async def stream_response(self, send: Send) -> None:
        """See StreamingResponse."""
        try:
            await super().stream_response(send)
        finally:
            await self._source.aclose()
