"""What was deployed is unpacked, and whatever an archive may try is refused by name, with nothing written outside."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.environments.archives import ArchiveLimits, unpack
from runner.environments.base import BuildFailed

Fill = Callable[[tarfile.TarFile], None]


def file(name: str, data: bytes = b"x", mode: int = 0o600) -> Fill:
    def fill(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        tar.addfile(member, io.BytesIO(data))

    return fill


def special(name: str, kind: bytes, target: str = "") -> Fill:
    def fill(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)

    return fill


def link(name: str, target: str) -> Fill:
    return special(name, tarfile.SYMTYPE, target)


def packed(folder: Path, *fills: Fill) -> Path:
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for fill in fills:
            fill(tar)
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "around" / "into"
    folder.mkdir(parents=True)
    return folder


def test_files_links_and_modes_are_unpacked(tmp_path: Path, into: Path) -> None:
    archive = packed(
        tmp_path,
        file("./env.py", b"code"),
        file("bin/tool", b"tool", 0o4755),
        link("latest/data", "../bin/tool"),
        special("hard", tarfile.LNKTYPE, "env.py"),
        file(".hud/config.json", b"{}"),
        file(".hud/other", b"kept"),
        file("env.py", b"newer code"),
    )
    unpack(archive, into)
    assert (into / "env.py").read_bytes() == b"newer code"
    assert (into / "bin/tool").stat().st_mode & 0o7777 == 0o755, "without the bit that lends rights"
    assert (into / "latest/data").read_bytes() == b"tool"
    assert (into / "hard").read_bytes() == b"code"
    assert not (into / ".hud/config.json").exists()
    assert (into / ".hud/other").exists()


HOSTILE = {
    "a way up": ([file("../outside")], "leads out of"),
    "a way up in the middle": ([file("a/../../outside")], "leads out of"),
    "an absolute name": ([file("/tmp/outside")], "leads out of"),
    "a link to an absolute place": ([link("a", "/etc/passwd")], "leads out of"),
    "a link out": ([link("a", "../outside")], "leads out of"),
    "links that add up": (
        [special("p", tarfile.DIRTYPE), link("p/s", "."), link("p/t", "s/s/s/../../../../..")],
        "leads out of",
    ),
    "a file through a link": ([link("a", "b"), special("b", tarfile.DIRTYPE), file("a/x")], "below a link"),
    "a folder in place of a link": ([link("a", "."), special("a/b", tarfile.DIRTYPE)], "below a link"),
    "a hard link out": ([special("a", tarfile.LNKTYPE, "../../secret")], "leads out of"),
    "a hard link through a link": ([link("a", "b"), special("c", tarfile.LNKTYPE, "a")], "no file of the archive"),
    "a hard link to a later file": ([special("c", tarfile.LNKTYPE, "d"), file("d")], "no file of the archive"),
    "a device": ([special("a", tarfile.CHRTYPE)], "neither a file"),
    "a pipe": ([special("a", tarfile.FIFOTYPE)], "neither a file"),
    "a long name": ([file("a" * 2000)], "more than 1024 bytes"),
    "a deep name": ([file("a/" * 100 + "b")], "more than 64 folders"),
    "a name that no file system takes": ([file("a" * 300)], "cannot be unpacked"),
    "many files": ([file(str(number)) for number in range(101)], "more than 100 files"),
    "a large file": ([file("a", b"x" * 3_000_000)], "more than 2000000 bytes"),
    "copies of a large file": (
        [file("a", b"x" * 900_000), *(special(str(n), tarfile.LNKTYPE, "a") for n in range(5))],
        "more than 2000000 bytes",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_an_archive_may_not_hold_is_refused(what: str, tmp_path: Path, into: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    fills, sentence = HOSTILE[what]
    with pytest.raises(BuildFailed, match=sentence):
        unpack(packed(tmp_path, *fills), into, ArchiveLimits(num_bytes=2_000_000, num_files=100))
    assert [path.name for path in into.parent.iterdir()] == ["into"]
    assert not Path("/tmp/outside").exists()


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path: Path, into: Path) -> None:
    archive = tmp_path / "bomb.tar.gz"
    with gzip.open(archive, "wb", compresslevel=9) as out:
        header = tarfile.TarInfo("zeros")
        header.size = 1 << 40
        out.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(40):
            out.write(bytes(1 << 20))
    with pytest.raises(BuildFailed, match="more than 16777216 bytes"):
        unpack(archive, into)
    assert (into / "zeros").stat().st_size < 20 << 20


def test_a_header_that_fills_memory_is_refused(tmp_path: Path, into: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"comment": "x" * (6 << 20)}
        tar.addfile(member)

    with pytest.raises(BuildFailed, match="header of more than a megabyte"):
        unpack(packed(tmp_path, fill), into)


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"no tar" * 1000), gzip.compress(b"x" * 1000)[:50]],
    ids=["nothing", "no gzip", "no tar", "half a gzip"],  # a gzip holds the time
)
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path, into: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)
    with pytest.raises(BuildFailed, match="no gzip tar"):
        unpack(path, into)
