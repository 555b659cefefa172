"""The archive of a folder: what is in it, and that it is the same for the same files."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from cli.environment_archive import pack_folder


def packed(folder: Path) -> bytes:
    written = io.BytesIO()
    pack_folder(folder, written.write)
    return written.getvalue()


def names(folder: Path) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(packed(folder))) as tar:
        return {member.name for member in tar.getmembers() if not member.isdir()}


def make(folder: Path, *files: str, ignoring: str | None = None) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    if ignoring is not None:
        (folder / ".dockerignore").write_text(ignoring)
    return folder


def test_the_same_files_make_the_same_bytes(tmp_path: Path):
    one, other = (make(tmp_path / name, "env.py", "data/a.json") for name in ("one", "other"))
    os.utime(other / "env.py", (1, 1))
    assert packed(one) == packed(other)


def test_what_hud_deploy_leaves_out_is_left_out(tmp_path: Path):
    junk = ["__pycache__/env.pyc", "x.pyo", ".venv/bin/python", "sub/node_modules/x", ".git/HEAD", ".env", "prod.env"]
    folder = make(tmp_path, "env.py", "sub/env.py", ".hud/config.json", *junk, ".env.local")
    assert names(folder) == {"env.py", "sub/env.py", ".hud/config.json"}


def test_dockerignore_leaves_out_and_takes_back_but_no_secrets(tmp_path: Path):
    ignoring = "# a comment\n*.log\n!keep.log\ndata/**\n/top.txt\nbuild/\n!venv\n!.env\nfold?r\n"
    kept = ["env.py", "keep.log", "sub/top.txt", "venv/x", ".dockerignore"]
    folder = make(
        tmp_path,
        *kept[:-1],
        "a.log",
        "sub/b.log",
        "data/x/y",
        "top.txt",
        "build/z",
        ".env",
        "folder/x",
        ignoring=ignoring,
    )
    assert names(folder) == set(kept)


def test_links_stay_links(tmp_path: Path):
    folder = make(tmp_path, "env.py")
    (folder / "link.py").symlink_to("env.py")
    with tarfile.open(fileobj=io.BytesIO(packed(folder))) as tar:
        assert tar.getmember("link.py").linkname == "env.py"


def test_a_folder_without_files_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="there are no files"):
        packed(tmp_path)
