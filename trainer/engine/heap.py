"""Keeps the memory of one pass for the next, instead of returning it to the kernel in between.

glibc gives tensors above 32 MiB pages of their own and returns them at once, so that each pass pays for clearing and
mapping all of its activations anew: 10 to 20 % of a pass of 16k tokens on a CPU.
"""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """For a process whose work is passes: what it needed once, it keeps. Does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_TOP_PAD, 64 << 20)
