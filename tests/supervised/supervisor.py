"""Keeps processes alive by name, as a service manager or a kubelet does: whatever has ended is started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Death(Generic[P]):
    """A process that was found dead, and when (`time.monotonic`)."""

    name: str
    process: P
    at: float


class Supervisor(Generic[P]):
    """Looks from `start` to `close`. `lock`: nothing is started again while it is held."""

    def __init__(self, begin: Callable[[str], P], has_ended: Callable[[P], bool], look_every_s: float) -> None:
        """begin: starts the process of this name; called with the lock held."""
        self.deaths: list[Death[P]] = []
        self.lock = threading.RLock()
        self._begin, self._has_ended, self._look_every_s = begin, has_ended, look_every_s
        self._kept: dict[str, P] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What runs goes on."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def spawn(self, name: str) -> P:
        """Start a process of this name, which is kept from now on. The one before goes on, if it can."""
        with self.lock:
            self._kept[name] = self._begin(name)
            return self._kept[name]

    def process(self, name: str) -> P:
        """The newest of this name."""
        with self.lock:
            return self._kept[name]

    def abandon(self, name: str) -> None:
        """Not started again before the next `spawn`."""
        with self.lock:
            del self._kept[name]

    def _keep(self) -> None:
        while not self._closing.wait(self._look_every_s):
            with self.lock:
                for name, process in list(self._kept.items()):
                    if self._has_ended(process):
                        self.deaths.append(Death(name, process, time.monotonic()))
                        self.spawn(name)
