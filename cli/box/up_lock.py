"""One `headway up` on a data folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = "up.lock"


class AlreadyUp(RuntimeError):
    """Another `headway up` runs on the data folder."""


@contextmanager
def only_up(data_dir: Path, url: str) -> Generator[None]:
    """Holds the data folder while the block runs. The lock ends with the process, however that ends: what a dead one
    left in the file means nothing.

    Raises AlreadyUp with the pid and address of who holds it.
    """
    descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(_refusal(data_dir)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {url}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _refusal(data_dir: Path) -> str:
    pid, _, url = (data_dir / LOCK_FILE).read_text().strip().partition(" ")
    holder = f"pid {pid}, {url}" if pid else "it has just started"  # between its lock and its name
    return (
        f"another 'headway up' runs on {data_dir} ({holder}): use that one, or stop it first; a second service "
        "needs a --data-dir of its own"
    )
