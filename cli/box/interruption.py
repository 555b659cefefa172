"""SIGTERM and Ctrl-C of a command that has child processes.

The first is an exception, so that `finally` blocks stop the children in order, which may take as long as the longest
drain. One that comes while they do must not be another exception: it would leave a `finally` block half way, with
children that nobody stops and a traceback. It kills the children instead, which ends every wait for them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_SAID = b"headway: interrupted again: what still runs is killed, and nothing that was acknowledged is lost\n"


class Terminated(BaseException):
    """SIGTERM."""


class Interruption:
    """Of this process, from `heed` on."""

    def __init__(self) -> None:
        self._is_stopping, self._is_hurried = False, False
        self._kills: list[Callable[[], None]] = []

    def heed(self) -> None:
        """Handle both signals from now on. A process that ignores Ctrl-C, as a shell's background job, goes on to."""
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def stopping_after(self, kill: Callable[[], None]) -> Generator[None]:
        """What follows the block stops children, whatever ended it: a signal calls `kill` from then on."""
        self._kills.append(kill)
        try:
            yield
        finally:
            self._is_stopping = True

    @contextmanager
    def killing(self, kill: Callable[[], None]) -> Generator[None]:
        """A signal that comes while children are stopped calls this as well, as long as the block lasts."""
        self._kills.append(kill)
        try:
            yield
        finally:
            self._kills.remove(kill)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        if not self._is_hurried:
            self._is_hurried = True
            os.write(2, _SAID)  # a handler may have interrupted a write to sys.stderr
        for kill in self._kills:
            kill()
