from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from store.unpacking import unpack


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    written.seek(0)
    return written


def a_file(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), b"content"


def of_type(kind: bytes) -> Callable[[], tuple[tarfile.TarInfo, bytes]]:
    def member() -> tuple[tarfile.TarInfo, bytes]:
        about = tarfile.TarInfo("a")
        about.type, about.linkname = kind, "/etc/passwd"
        return about, b""

    return member


def test_files_lie_where_they_lay(tmp_path: Path):
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "one").write_bytes(b"1")
    (tmp_path / "from" / "empty").mkdir()
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        tar.add(tmp_path / "from", arcname=".")
    with tarfile.open(tmp_path / "packed.tar") as tar:
        unpack(tar, tmp_path / "to")
    assert (tmp_path / "to" / "deep" / "one").read_bytes() == b"1"
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["deep", "empty"]


@pytest.mark.parametrize(
    "member",
    [
        lambda: a_file("../outside"),
        lambda: a_file("/outside"),
        lambda: a_file("a/../../outside"),
        of_type(tarfile.SYMTYPE),
        of_type(tarfile.LNKTYPE),
        of_type(tarfile.FIFOTYPE),
        of_type(tarfile.CHRTYPE),
    ],
    ids=["above", "absolute", "roundabout", "link", "hard link", "pipe", "device"],
)
def test_what_is_no_file_below_is_refused(tmp_path: Path, member: Callable[[], tuple[tarfile.TarInfo, bytes]]):
    with (
        tarfile.open(fileobj=packed(a_file("first"), member())) as tar,
        pytest.raises(tarfile.TarError, match="no file"),
    ):
        unpack(tar, tmp_path / "to")
    assert [path.name for path in tmp_path.rglob("*")] == ["to", "first"]
