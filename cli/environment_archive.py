"""A folder as the archive that `hud deploy` would make of it: the same files are left out. The same files make the
same bytes, so that what was built of them is found again."""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

_FIRST = [
    "__pycache__",
    "*.pyc",
    "*.pyo",
    ".venv",
    "venv",
    "node_modules",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".DS_Store",
    "Thumbs.db",
]
"""Left out unless .dockerignore takes them back."""
_LAST = [".git", ".env", ".env.*", "*.env"]
"""Always left out: they hold secrets, or what nobody needs to run the environment."""


class _Rule:
    """One line of .dockerignore."""

    def __init__(self, line: str) -> None:
        body = line.removeprefix("!")
        self.takes_back, self._folders_alone = line.startswith("!"), body.endswith("/")
        self._pattern = _pattern(body.rstrip("/"))

    def fits(self, path: str, is_folder: bool) -> bool:
        """Whether it speaks of the path, or of a folder that it lies in."""
        parts = path.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        own = (is_folder or not self._folders_alone) and self._pattern.fullmatch(path) is not None
        return own or any(self._pattern.fullmatch(folder) for folder in above)


def pack_folder(folder: Path, write: Callable[[bytes], object]) -> int:
    """Write the archive in pieces; how many files it has. Raises ValueError for a folder without any."""
    out = _Writer(write)
    num_files = 0
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for path in _kept(folder):
            about = tar.gettarinfo(str(path), arcname=path.relative_to(folder).as_posix())
            about.uid = about.gid = 0
            about.uname = about.gname = ""
            about.mtime = 0
            if about.isreg():
                num_files += 1
                with path.open("rb") as file:
                    tar.addfile(about, file)
            elif about.isdir() or about.issym() or about.islnk():
                tar.addfile(about)
    if not num_files:
        raise ValueError(f"there are no files in {folder} that an environment could be made of")
    return num_files


def _kept(folder: Path) -> Iterator[Path]:
    ignoring = folder / ".dockerignore"
    lines = ignoring.read_text(encoding="utf-8").splitlines() if ignoring.is_file() else []
    said = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    rules = [_Rule(line) for line in (*_FIRST, *said, *_LAST)]
    yield from _below(folder, folder, rules)


def _below(root: Path, folder: Path, rules: Sequence[_Rule]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        ignored = False
        for rule in rules:
            if rule.fits(path.relative_to(root).as_posix(), is_folder):
                ignored = not rule.takes_back
        if not ignored:
            yield path
            if is_folder:
                yield from _below(root, path, rules)


def _pattern(glob: str) -> re.Pattern[str]:
    """`*` is within one segment, `**` over any number of them; without a slash it fits at any depth."""
    anchored = "/" in glob
    glob = glob.removeprefix("/")
    if glob in ("", "**"):
        return re.compile(r".*")
    pieces = re.split(r"(\*\*/|/\*\*$|\*|\?)", glob if anchored else f"**/{glob}")
    meaning = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces))


class _Writer(IO[bytes]):
    """What `gzip` writes to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._write(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass
