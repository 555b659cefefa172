"""Threads in which a server waits for disks and stores.

Python's own pool for what blocks has four threads more than the machine has cores. A store on the network that does not
answer keeps each call for minutes: a few of them would stop all that is done in threads, such as recording chats whose
samples need no blob.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

MOST_THREADS = 128


def widen_threads() -> None:
    """Give the running event loop room for calls that wait. Threads are made as they are needed."""
    threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="blocking")
    asyncio.get_running_loop().set_default_executor(threads)
