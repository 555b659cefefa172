"""Keeps the memory of one pass for the next, and returns it to the kernel once there has been none for a while.

glibc gives tensors above 32 MiB pages of their own and returns them at once, so that each pass pays for clearing and
mapping all of its activations anew: 10 to 20 % of a pass of 16k tokens on a CPU. Kept for good, an idle trainer holds
what its largest pass took, 4 GB for 16k tokens of a base of 17 MB.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20

IDLE_S = 15.0
"""Longer than between two steps of a run, whose rollouts are waited for; shorter than anybody's look at the machine."""


class Heap:
    """The memory of this process. Does nothing without glibc."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        """idle_s: after which what nobody uses is returned."""
        self._idle_s = idle_s
        self._glibc = _glibc()
        self._ended_at: float | None = None
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_freed(self) -> None:
        """From now on what is freed stays, until it is returned."""
        if self._glibc is None:
            return
        self._glibc.mallopt(_MMAP_MAX, 0)
        self._glibc.mallopt(_TRIM_THRESHOLD, _LARGEST)
        self._glibc.mallopt(_TOP_PAD, _TOP_PAD_BYTES)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """The block allocates much; once none has run for `idle_s`, what was freed is returned. By one thread."""
        self._ended_at = None
        try:
            yield
        finally:
            self._ended_at = time.monotonic()
            self._has_ended.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._return_when_idle, name="heap", daemon=True)
                self._thread.start()

    def return_freed(self) -> None:
        """Whole pages, wherever they lie. The next pass maps them anew."""
        if self._glibc is not None:
            self._glibc.malloc_trim(0)

    def _return_when_idle(self) -> None:
        """Wakes up once in `idle_s` while there are passes, and not at all while there are none."""
        while self._has_ended.wait():
            self._has_ended.clear()
            if (ended_at := self._ended_at) is None:
                continue  # the end of the pass that runs now wakes it up again
            if (left_s := ended_at + self._idle_s - time.monotonic()) > 0:
                time.sleep(left_s)
                self._has_ended.set()  # looks again: there may have been another
            else:
                self.return_freed()


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
