"""Watchdog: ends the process when the engine hangs (a kernel that never ends, a device that never answers).

Nothing in the process can interrupt that, and its heartbeat goes on, with the leases. So the process ends: its leases
run out, another trainer repeats the operation, and one that hangs three times is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOKS = 4
"""In the time after which it counts."""


class Watchdog:
    """Calls `stands_still`, in a thread, once `seen` has not been called for so long."""

    def __init__(self, after_s: float, stands_still: Callable[[float], None]) -> None:
        self._after_s = after_s
        self._stands_still = stands_still
        self._seen_at = time.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        self.seen()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def seen(self) -> None:
        """Something moved: between two micro-batches, between two operations, and while there is nothing to do."""
        self._seen_at = time.monotonic()

    def _watch(self) -> None:
        while (for_s := time.monotonic() - self._seen_at) < self._after_s:
            time.sleep(self._after_s / _LOOKS)
        self._stands_still(for_s)
