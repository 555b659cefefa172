"""Files that are still there after the machine lost its power."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

_AT_ONCE = 4


def sync_file(path: Path) -> None:
    """Push a file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Push a folder's entries (names, renames) to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_files(paths: Iterable[Path]) -> None:
    """As sync_file, of all at once: a file system with a journal commits them together, in the time of one or two."""
    list(_threads().map(sync_file, paths))


def sync_folders(paths: Iterable[Path]) -> None:
    """As sync_folder, of all at once."""
    list(_threads().map(sync_folder, paths))


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


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fsync")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
