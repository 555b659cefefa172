"""Gives up requests on samplers without a heartbeat: a process that was stopped, or a machine whose cable was pulled,
keeps its connections and answers nothing.

A whole answer is silent until it is there, for minutes if it is long, so silence alone says nothing. A sampler is given
up when its heartbeat has run out and its /healthz does not answer either: one that merely lost the database goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from server.sampling.connections import Connections, origin_of
from store.repeating import RepeatedTask, Rhythm

log = structlog.get_logger(__name__)

_EVERY_S = 1.0


class SamplerWatch:
    """One task a process; asks for `live_urls` (of samplers with a heartbeat) only while something is under way."""

    def __init__(
        self, connections: Connections, live_urls: Callable[[], Awaitable[set[str]]], every_s: float = _EVERY_S
    ) -> None:
        self._connections = connections
        self._live_urls = live_urls
        self._watching = RepeatedTask(self._look, Rhythm(every_s, failed="samplers_not_watched"))
        self._watching.start()

    async def close(self) -> None:
        """Watch nobody any more."""
        await self._watching.close()

    async def _look(self) -> None:
        if self._connections.busy():
            live = {origin_of(url) for url in await self._live_urls()}
            await asyncio.gather(*(self._look_after(url) for url in self._connections.busy() if url not in live))

    async def _look_after(self, url: str) -> None:
        if not await self._connections.is_answering(url):
            log.warning("sampler_fell_silent", url=url)
            self._connections.abandon(url)
