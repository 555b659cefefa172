"""Building a version of an environment, with its log sent to the server while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from runner.environments.base import BuildFailed, Environments
from runner.worker.carrying import Carried, Reports
from runner.worker.refusals import Refused
from wire.placements import Placement

log = structlog.get_logger(__name__)

_SEND_EVERY_S = 0.25
_MOST_LINES_OF_ALL = 50_000
_MOST_LINES = 500
_MOST_CHARACTERS = 4000
_MOST_CHARACTERS_AT_ONCE = 100_000


class Builds:
    """Carries out placements of the kind `build`."""

    def __init__(self, environments: Environments) -> None:
        self._environments = environments

    async def carry_out(self, placement: Placement, reports: Reports) -> Carried:
        archive = await reports.archive(placement.environment)
        written = _BuildLog(reports.log)
        sending = asyncio.create_task(written.keep_sending())
        try:
            manifest = await self._environments.build(placement.environment, archive, written.line, placement.timeout_s)
        except BuildFailed as failed:
            return Carried("failed", str(failed))
        else:
            return Carried("completed", manifest=manifest)
        finally:
            written.close()
            await sending


class _BuildLog:
    """Lines that wait to be sent, numbered from 0."""

    def __init__(self, send: Callable[[int, Sequence[str]], Awaitable[None]]) -> None:
        self._send = send
        self._lines: list[str] = []
        self._num_sent = 0
        self._closed = asyncio.Event()

    def line(self, line: str) -> None:
        number = self._num_sent + len(self._lines)
        if number < _MOST_LINES_OF_ALL:
            self._lines.append(line.rstrip("\n")[:_MOST_CHARACTERS])
        elif number == _MOST_LINES_OF_ALL:
            self._lines.append("what follows is left out: the log is too long")

    def close(self) -> None:
        self._closed.set()

    async def keep_sending(self) -> None:
        """Until it is closed, and all of them are sent."""
        while self._lines or not self._closed.is_set():
            while self._lines:
                lines = self._next()
                try:
                    await self._send(self._num_sent, lines)
                except Refused as refused:
                    log.warning("log_lines_refused", error=str(refused))
                self._num_sent += len(lines)
                del self._lines[: len(lines)]
            try:
                await asyncio.wait_for(self._closed.wait(), _SEND_EVERY_S)
            except TimeoutError:
                continue

    def _next(self) -> list[str]:
        """As many as one request may have."""
        num_characters, lines = 0, list[str]()
        for line in self._lines[:_MOST_LINES]:
            num_characters += len(line)
            if lines and num_characters > _MOST_CHARACTERS_AT_ONCE:
                break
            lines.append(line)
        return lines
