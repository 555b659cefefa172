"""Threads with a large stack, for native code that recurses as deep as its input nests."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

STACK_BYTES = 64 * 1024 * 1024
"""Only what is used takes memory. A chain of references in a JSON schema of the largest size needs between 2 and 8 MiB,
which a thread has by default or has not: glibc gives it what `ulimit -s` says, and 2 MiB where that says unlimited."""


def deep_threads(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads have a stack of this size. They are started here: the size is one setting of the process,
    which holds for whatever thread is started next."""
    pool = ThreadPoolExecutor(num_threads, name)
    everyone = threading.Barrier(num_threads)
    before = threading.stack_size(STACK_BYTES)
    try:
        for started in [pool.submit(everyone.wait) for _ in range(num_threads)]:
            started.result()
    finally:
        threading.stack_size(before)
    return pool
