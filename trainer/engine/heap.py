"""Keeps the memory of one pass for the next, and returns it to the kernel once there has been none for a while.

glibc gives tensors above 32 MiB pages of their own and returns them at once, so that each pass pays for clearing and
mapping all of its activations anew: 10 to 20 % of a pass of 16k tokens on a CPU. Kept for good, an idle trainer holds
what its largest pass took, 4 GB for 16k tokens of a base of 17 MB.
"""

from __future__ import annotations

import ctypes
import sys
import threading
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
        self._timer: threading.Timer | None = None

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
        if self._timer is not None:
            self._timer.cancel()
        try:
            yield
        finally:
            self._timer = threading.Timer(self._idle_s, self.return_freed)
            self._timer.daemon = True
            self._timer.start()

    def return_freed(self) -> None:
        """Whole pages, wherever they lie. The next pass maps them anew."""
        if self._glibc is not None:
            self._glibc.malloc_trim(0)


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
