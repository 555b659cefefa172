"""Files that are still there after the machine lost its power."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Push a file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Push a folder's entries (names, renames) to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each durable in the folder that holds it."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


class DurableFolders:
    """Makes folders, down from a root, whose names last.

    A folder that is there already may have been made by a process that was killed before it pushed the name to the
    disk. So each process pushes each name once, whoever made it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lasting: set[Path] = set()

    def make(self, path: Path) -> None:
        """Make a folder and its missing parents, each durable in the folder that holds it."""
        if path in self._lasting and path.exists():
            return
        if path == self._root:
            make_folder(path.parent)
        else:
            self.make(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
        self._lasting.add(path)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
