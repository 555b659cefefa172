"""Unpacks what was deployed: a gzip tar from somebody who may wish us ill.

Nothing in it is trusted: not its names, its links, or its sizes. It is read as a stream, and counted as it comes.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from runner.environments.base import BuildFailed

_LEFT_OUT = PurePosixPath(".hud/config.json")
_FREE_BYTES = 16 << 20
_HEADER_BYTES = 1 << 20
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """`ratio`: of bytes unpacked to bytes packed, for what is beyond the first 16 MiB."""

    num_bytes: int = 2 << 30
    num_files: int = 50_000
    ratio: int = 200
    name_bytes: int = 1024
    depth: int = 64


def unpack(archive: Path, folder: Path, limits: ArchiveLimits | None = None) -> None:
    """Unpack into `folder`, which is empty. Files get the modes 644 or 755. Raises BuildFailed, with the name of the
    member that it refuses; what lies in the folder then is the caller's to remove."""
    limits = limits or ArchiveLimits()
    with archive.open("rb") as packed:
        stream = _Counted(packed, archive.stat().st_size, limits)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=_CHUNK) as tar:
                _Unpacking(folder, stream, limits).take_all(tar)
        except (tarfile.TarError, zlib.error, EOFError) as error:
            raise BuildFailed(f"the archive is no gzip tar, or is damaged: {error}") from error


class _Counted:
    """The tar in a gzip file, read no further than the limits allow, whatever the members say about their sizes."""

    def __init__(self, packed: IO[bytes], packed_bytes: int, limits: ArchiveLimits) -> None:
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._left = min(limits.num_bytes, max(_FREE_BYTES, packed_bytes * limits.ratio))
        self._limit = self._left
        self.allowance = _HEADER_BYTES
        """Bytes that the next member may take: a header that is longer would be held in memory."""

    def read(self, size: int) -> bytes:
        data = b""
        while not data:
            taken = self._inflate.unconsumed_tail or self._packed.read(_CHUNK)
            if not taken and not self._inflate.eof:
                data = self._inflate.flush()
                break
            if self._inflate.eof:  # gzip files may follow one another
                taken = self._inflate.unused_data or taken
                if not taken:
                    break
                self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data = self._inflate.decompress(taken, size)
        self._left -= len(data)
        self.allowance -= len(data)
        if self._left < 0:
            raise BuildFailed(
                f"the archive holds more than {self._limit} bytes; leave out what the environment does not need "
                "(.dockerignore)"
            )
        if self.allowance < -2 * _CHUNK:
            raise BuildFailed("the archive has a header of more than a megabyte")
        return data


class _Unpacking:
    def __init__(self, folder: Path, stream: _Counted, limits: ArchiveLimits) -> None:
        self._folder, self._stream, self._limits = folder, stream, limits
        self._num_files = self._num_copied = 0

    def take_all(self, tar: tarfile.TarFile) -> None:
        while (member := tar.next()) is not None:
            name = self._checked_name(member.name)
            self._num_files += 1
            if self._num_files > self._limits.num_files:
                raise BuildFailed(f"the archive has more than {self._limits.num_files} files")
            self._stream.allowance = max(0, member.size) + _HEADER_BYTES
            if name.parts and name != _LEFT_OUT:
                with _named(name):
                    self._take(tar, member, name)
            vars(tar)["members"] = []  # it would keep every header
            self._stream.allowance = max(self._stream.allowance, _HEADER_BYTES)

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: PurePosixPath) -> None:
        path = self._place(name)
        if member.isdir():
            if not path.is_dir():
                path.mkdir()
        elif member.issparse():
            raise BuildFailed(f"{_shown(name)} is a sparse file; archives may have none")
        elif member.isreg():
            self._write(tar, member, path)
        elif member.issym():
            _check_link(name, member.linkname)
            path.symlink_to(member.linkname)
        elif member.islnk():
            self._copy(self._checked_name(member.linkname), path)
        else:
            raise BuildFailed(f"{_shown(name)} is neither a file, a folder nor a link; archives may have nothing else")

    def _place(self, name: PurePosixPath) -> Path:
        """Where it goes: below real folders alone, in place of whatever is there that is no folder."""
        at = self._folder
        for part in name.parts[:-1]:
            at = at / part
            if at.is_symlink() or (at.exists() and not at.is_dir()):
                raise BuildFailed(f"{_shown(name)} lies below a link or a file")
            at.mkdir(exist_ok=True)
        path = at / name.parts[-1]
        if path.is_symlink() or path.is_file():
            path.unlink()
        return path

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        data = tar.extractfile(member)
        assert data is not None
        with path.open("xb") as file:
            shutil.copyfileobj(data, file, _CHUNK)
            os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)

    def _copy(self, name: PurePosixPath, path: Path) -> None:
        """A hard link is a copy: two names of one file are of no use here."""
        origin = self._folder.joinpath(*name.parts)
        if any(each.is_symlink() for each in [origin, *origin.parents[: len(name.parts)]]) or not origin.is_file():
            raise BuildFailed(f"a link leads to {_shown(name)}, which is no file of the archive before it")
        self._num_copied += origin.stat().st_size
        if self._num_copied > self._limits.num_bytes:
            raise BuildFailed(f"the archive holds more than {self._limits.num_bytes} bytes")
        shutil.copy2(origin, path)

    def _checked_name(self, text: str) -> PurePosixPath:
        name = PurePosixPath(text)
        if name.is_absolute() or ".." in name.parts:
            raise BuildFailed(f"{_shown(name)} leads out of the archive's folder")
        if "\0" in text or len(text.encode(errors="surrogateescape")) > self._limits.name_bytes:
            raise BuildFailed(f"the archive has a name of more than {self._limits.name_bytes} bytes, or with a NUL")
        if len(name.parts) > self._limits.depth:
            raise BuildFailed(f"{_shown(name)} lies in more than {self._limits.depth} folders")
        return name


def _check_link(name: PurePosixPath, target: str) -> None:
    """Up first, then down: what comes after `..` in the middle depends on where links on the way lead."""
    parts = PurePosixPath(target).parts
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or "\0" in target or ".." in parts[ups:] or ups > len(name.parts) - 1 or not target:
        raise BuildFailed(f"{_shown(name)} is a link that leads out of the archive's folder")


@contextmanager
def _named(name: PurePosixPath) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise BuildFailed(f"{_shown(name)} cannot be unpacked: {error.strerror}") from error


def _shown(name: PurePosixPath) -> str:
    return ascii(str(name)[:200])
