"""Whether what the SDK reported of a rollout has arrived, when it is over.

The SDK uploads spans in threads of its own. Its `flush` waits until none is left of any rollout, so that rollouts which
end together share one. What the SDK gives up on is only logged: that is where it is seen.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from hud.telemetry import exporter

UPLOAD_RETRIES = 9
"""From 0.5 s on, doubled each time: four minutes. The SDK's own two would lose what comes while a server restarts."""

_RETRIES = "_UPLOAD_RETRIES"
_FLUSH_S = 240.0
_TRACE = re.compile(r"[0-9a-f]{32}")
_REPORTERS = ("hud.telemetry.exporter", "hud.eval.job")


def keep_uploading() -> None:
    """Have the SDK try uploads again while a server is away. It has no setting for it."""
    assert isinstance(getattr(exporter, _RETRIES), int)
    setattr(exporter, _RETRIES, UPLOAD_RETRIES)


class LostReports(logging.Handler):
    """Which traces the SDK has failed to report something of, by its warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._traces: set[str] = set()
        for name in _REPORTERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if (found := _TRACE.search(record.getMessage().replace("-", ""))) is not None:
            self._traces.add(found.group())

    def take(self, trace_id: str) -> bool:
        """Whether something of it was lost. It is forgotten."""
        lost = trace_id in self._traces
        self._traces.discard(trace_id)
        return lost


class Flushes:
    """One flush at a time, shared by all that began to wait before it began."""

    def __init__(self, flush: Callable[[float], bool] = exporter.flush) -> None:
        self._flush = flush
        self._next: asyncio.Task[bool] | None = None
        self._running: asyncio.Task[bool] | None = None

    async def wait(self) -> bool:
        """Whether all that was reported so far is with the server, or given up."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await asyncio.to_thread(self._flush, _FLUSH_S)
