"""Which processes use a database, by locks, which end with them: the last one that leaves stops the server.

<folder>.turn     held by whoever starts, stops or looks for the server
<folder>.users    shared by all who use it
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from store.private_files import open_private


class Users:
    """This process among them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._joined: int | None = None

    @contextmanager
    def turn(self) -> Generator[None]:
        """One process at a time."""
        descriptor = self._open("turn")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def join(self) -> None:
        """In a turn: use the server from now on."""
        self._joined = self._open("users")
        fcntl.flock(self._joined, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """In a turn: whether this was the last user. False for one that has left already."""
        if self._joined is None:
            return False
        descriptor, self._joined = self._joined, None
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False
        finally:
            os.close(descriptor)

    def _open(self, what: str) -> int:
        return open_private(self._folder.with_name(f"{self._folder.name}.{what}"))
