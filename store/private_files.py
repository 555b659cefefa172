"""Files and folders that their owner alone can read, whatever umask the process was started with."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
PRIVATE_UMASK = _OTHERS
_UMASKS: list[int] = []
"""The one that the process was started with."""

DATA_FOLDERS = frozenset({"blob-copies", "blobs", "checkpoint-copies", "checkpoints", "logs", "mirrors", "postgres"})
"""What we keep in a data folder, besides files, which are private from the start."""


def open_private(path: Path) -> int:
    """A descriptor for reading and appending to a file, made with mode 0600 where it is not there yet."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def write_private(path: Path, content: str) -> None:
    """Write or replace a file, all at once, mode 0600."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def private_umask() -> int:
    """From now on, what this process and its children make is for its owner alone. Returns the umask before."""
    before = os.umask(PRIVATE_UMASK)
    if before != PRIVATE_UMASK:
        _UMASKS.append(before)
    return before


@contextmanager
def shared_umask() -> Generator[None]:
    """Inside, files are made as the user's own umask says: the cache of a hub may be shared among users."""
    ours = os.umask(_UMASKS[-1]) if _UMASKS else None
    try:
        yield
    finally:
        if ours is not None:
            os.umask(ours)


def private_data_folder(folder: Path) -> None:
    """Make a data folder of mode 0700, or take what others may do with one of an earlier version, which was open.

    What is not ours stays as it is: files of others, links, and the folder itself where other folders lie beside ours
    (a project, a home, /tmp).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    strangers = False
    for entry in sorted(folder.iterdir()):
        if entry.name in DATA_FOLDERS:
            _close(entry)
        elif not entry.name.startswith("."):
            strangers = strangers or entry.is_dir()
    if not strangers and not folder.stat().st_mode & stat.S_ISVTX:
        _take_from_others(folder)


def _close(top: Path) -> None:
    """Folders are closed from the inside, so that an interrupted walk is begun again: a closed one is done."""
    if top.is_symlink() or not _is_open(top):
        return
    for folder, folders, files in os.walk(top, topdown=False):
        for name in (*files, *folders):
            _take_from_others(Path(folder) / name)
    _take_from_others(top)


def _is_open(path: Path) -> bool:
    return bool(path.lstat().st_mode & _OTHERS)


def _take_from_others(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return  # it was removed this moment
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() != 0 or not found.st_mode & _OTHERS:
        return
    path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
