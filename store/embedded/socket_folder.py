"""Where the embedded database listens: a folder that its owner alone can enter, with a path that a socket can have."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

from store.private_files import write_private

_LONGEST_SOCKET = 103  # bytes: macOS has 104 with the NUL at the end, Linux 108
_SOCKET = "/.s.PGSQL.5432"
_RECORD = "socket-folder"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
"""To libpq, a comma separates hosts; other signs have a meaning in one or the other spelling of an address."""


def socket_folder(folder: Path, owner: int) -> Path:
    """The data folder itself, which PostgreSQL keeps at 0700. Where its path is too long or odd, a folder of the same
    mode among the temporary ones, which is written down and used again as long as it is there and is nobody else's."""
    if _fits(str(folder)):
        return folder
    record = folder.with_name(f"{folder.name}-{_RECORD}")
    kept = Path(record.read_text().strip()) if record.exists() else None
    if kept is not None and is_private(kept, owner):
        return kept
    made = Path(tempfile.mkdtemp(prefix="headway-", dir=_short_temporary_folder()))
    os.chown(made, owner, -1)
    write_private(record, f"{made}\n")
    return made


def is_private(path: Path, owner: int) -> bool:
    """Whether this is a folder, no link to one, that belongs to `owner` and that nobody else can enter."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _short_temporary_folder() -> str:
    """TMPDIR may be long or odd, too."""
    usual = tempfile.gettempdir()
    return usual if _fits(f"{usual}/headway-12345678") else "/tmp"  # noqa: S108


def _fits(path: str) -> bool:
    return _PLAIN.fullmatch(path) is not None and len(path) + len(_SOCKET) <= _LONGEST_SOCKET
