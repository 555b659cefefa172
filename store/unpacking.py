"""Reads a tar file that holds files and folders alone, such as a backup.

tarfile's own filters are younger than Python 3.11 (3.11.4, PEP 706), and Debian 12 has 3.11.2.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath


def unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Its files below a new folder, with this process's owner and modes. Raises tarfile.TarError for what is neither a
    file nor a folder, or lies elsewhere."""
    for member in tar:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isdir() or member.isreg()):
            raise tarfile.ExtractError(f"it holds {member.name[:200]!r}, which is no file or folder below its own")
        path = folder / name
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None
        with content, path.open("xb") as file:
            shutil.copyfileobj(content, file)
