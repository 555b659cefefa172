"""SIGTERM: a trainer that waits wakes up, one that computes stops before its next micro-batch, or is ended after the
grace time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wire.errors import Interrupted


class Stop:
    """That this process got SIGTERM. `overdue` is called, in a thread, if it still runs after `grace_s`."""

    def __init__(self, grace_s: float, overdue: Callable[[], None], asked: Callable[[], None] = lambda: None) -> None:
        """`asked` is called whenever somebody asks whether to end."""
        self._asked = asked
        self._requested = threading.Event()
        self._naps = False
        self._timer = threading.Timer(grace_s, overdue)
        self._timer.daemon = True

    def request(self, *_: object) -> None:
        """The handler of the signal."""
        if not self._requested.is_set():
            self._requested.set()
            self._timer.start()
        if self._naps:
            self._naps = False
            raise _Woken

    def is_set(self) -> bool:
        """Whether the request has come."""
        self._asked()
        return self._requested.is_set()

    def check(self) -> None:
        """Raises Interrupted once the request has come: for the middle of long work that can be thrown away."""
        self._asked()
        if self._requested.is_set():
            raise Interrupted("the trainer is stopping")

    def nap(self, wait: Callable[[], object]) -> None:
        """Call `wait`, in the main thread; the request ends it early."""
        try:
            self._naps = True
            if not self._requested.is_set():
                wait()
            self._naps = False
        except _Woken:
            pass


class _Woken(BaseException):
    """The signal as an exception that ends a wait."""
