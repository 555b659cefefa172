"""What is read from files that are replaced while we run, as tokens and certificates are when they are renewed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)

_Stamp = tuple[int, int, int, int] | None


class Replaceable(Generic[T]):
    """What `read` makes of the files. `current` reads again when one of them is another file than before, was written
    to, or got another mode or owner: it asks the file system for that each time, which takes microseconds.

    Files that cannot be read, or are half written, leave what was read before in force; the log says so once for each
    change. Where the system refused to open one, every call tries again. Raises what `read` raises, when this is made.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths, self._read = tuple(paths), read
        self._stamps = self._look()
        self._is_unread = False
        self._value = read()

    def current(self) -> T:
        """As the files are now."""
        stamps = self._look()
        is_changed = stamps != self._stamps
        if is_changed or self._is_unread:
            self._stamps = stamps  # before reading: a change in between is seen the next time
            self._read_again(is_changed)
        return self._value

    def _read_again(self, is_changed: bool) -> None:
        files = [str(path) for path in self._paths]
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            self._is_unread = isinstance(error, OSError)  # for lack of a descriptor, for example
            if is_changed:
                log.warning("replaced_file_not_used", files=files, error=str(error), then="what was read before stays")
        else:
            self._is_unread = False
            log.info("replaced_file_read", files=files)

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> _Stamp:
    try:
        found = os.stat(path)  # through links: Kubernetes replaces a link to the folder of its files
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
